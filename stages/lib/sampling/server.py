"""Requests to an inference server: retried where that is safe, one sentence where it is not."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx2

from padd_artifacts.errors import PaddError

# chosen: about half a minute in all, so that a server that is only busy is waited for
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
CONNECT_SECONDS = 10.0


class EngineError(PaddError):
    """A server that does not answer, or not as it should; what was finished before is kept."""


class _Again(Exception):
    """A failure that the same request may not meet a second time."""


class Server:
    """One server by its address; every request may be sent again without harm, so failures of the moment are retried.

    Args:
        url: as http://host:port.
        timeout: seconds to wait for one answer.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url.rstrip("/")
        self._timeout = httpx2.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout), pool=None)
        self._client = httpx2.Client(base_url=self.url, timeout=self._timeout)

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, missing: bool = False
    ) -> Any:
        """Return the answer to one request; None for an empty one, and where ``missing`` is allowed False for a 404.

        Raises:
            EngineError: refused, or it failed after all tries.
        """
        pauses = iter(PAUSES)
        while True:
            try:
                return self._read(self._client.request(method, path, json=body), path, missing)
            except (_Again, httpx2.TransportError) as error:
                time.sleep(self._pause(pauses, path, error))

    def connections(self, most: int) -> httpx2.AsyncClient:
        """Return a client for up to ``most`` requests at a time, for `post`."""
        limits = httpx2.Limits(max_connections=most, max_keepalive_connections=most)
        return httpx2.AsyncClient(base_url=self.url, timeout=self._timeout, limits=limits)

    async def post(self, client: httpx2.AsyncClient, path: str, body: dict[str, Any], read: Any) -> Any:
        """Return what ``read`` makes of the answer to one of many requests.

        Args:
            read: gets the answer; raises `Unfinished` if the request is to be made again.

        Raises:
            EngineError: as `ask`.
        """
        pauses = iter(PAUSES)
        while True:
            try:
                return read(self._read(await client.post(path, json=body), path, missing=False))
            except (_Again, Unfinished, httpx2.TransportError) as error:
                await asyncio.sleep(self._pause(pauses, path, error))

    def _read(self, response: httpx2.Response, path: str, missing: bool) -> Any:
        status = response.status_code
        if status == 404 and missing:
            return False
        if status >= 500:
            raise _Again(f"status {status}: {_message(response)}")
        if status >= 400:
            raise EngineError(
                f"the engine at {self.url} refuses {path} (status {status}: {_message(response)}), so nothing can be "
                "sampled with it; see its log and docs/ROLLOUTS.md."
            )
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise _Again(f"its answer is no JSON ({error})") from error

    def _pause(self, pauses: Iterator[float], path: str, error: Exception) -> float:
        """Return the seconds to wait before the next try.

        Raises:
            EngineError: there is none.
        """
        seconds = next(pauses, None)
        if seconds is None:
            said = str(error) or type(error).__name__
            raise EngineError(
                f"the engine at {self.url} failed at {path} {len(PAUSES) + 1} times (last: {said}), so the run stops "
                "with what is finished; start the engine again and repeat the command with --resume."
            ) from error
        return seconds


class Unfinished(Exception):
    """An answer that the server broke off; the same request can be made again."""


def _message(response: httpx2.Response) -> str:
    """Return what a server says of its error, shortened."""
    try:
        found = response.json()
        error = found.get("error", found)
        text = error.get("message") or error.get("detail") or error if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = response.text
    return " ".join(str(text).split())[:200] or "no message"
