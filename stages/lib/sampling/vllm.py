"""Sampling through a vLLM server: token ids in and out, weights from a folder (docs/ROLLOUTS.md).

vLLM pins versions of torch and transformers that are not padd's, so it runs in an environment of its own. What is used
is what an unchanged `vllm serve` answers; the parts beyond completions need VLLM_SERVER_DEV_MODE=1.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2

from padd_artifacts.errors import UsageError
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.options.shared import EngineOptions
from padd_stages.lib.sampling.responses import OnBatch, Request, Response, Sampling
from padd_stages.lib.sampling.server import EngineError, Server
from padd_stages.lib.sampling.token_draws import seed_of
from padd_stages.lib.sampling.vllm_answers import AnswerReader

AT_ONCE = 512  # chosen: requests in flight from one process; vLLM batches what fits in its cache, and queues the rest
# vLLM takes temperatures below this as greedy, or raises them to it
LEAST_TEMPERATURE = 0.01


def check_engine(options: EngineOptions) -> None:
    """Refuse an engine without an address, and an address without one.

    Raises:
        UsageError: one of them.
    """
    if options.engine == "vllm" and options.engine_url is None:
        raise UsageError("--engine vllm needs the address of a server; give one with --engine-url.")
    if options.engine != "vllm" and options.engine_url is not None:
        raise UsageError(
            f"--engine-url {options.engine_url} does nothing with --engine {options.engine}; take --engine vllm."
        )


def engine_of(options: EngineOptions, model: str) -> "VllmEngine | None":
    """Return the server that samples for a model that is not trained; None where the model itself does.

    Raises:
        EngineError: it does not answer, or serves another model.
    """
    if options.engine_url is None:
        return None
    engine = VllmEngine(options.engine_url, timeout=options.engine_timeout)
    engine.require_model(model)
    return engine


class VllmEngine:
    """A vLLM server that samples in place of the model itself.

    Attributes:
        version: name of the weights that responses must come from; None where that is not checked.
        identity: version of vLLM, name and path of the served model.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        self._server = Server(url, timeout)
        self.version: str | None = None
        models = self._server.ask("GET", "/v1/models")["data"]
        served = next((model for model in models if not model.get("parent")), None)
        if served is None:
            raise EngineError(f"the engine at {self._server.url} serves no model; start it with one.")
        self._model, self._longest = str(served["id"]), served.get("max_model_len")
        version = self._server.ask("GET", "/version", missing=True) or {}
        self.identity = {
            "engine": f"vLLM {version.get('version', 'of unknown version')}",
            "model": self._model,
            "path": str(served.get("root") or ""),
        }

    def require_model(self, name: str) -> None:
        """Refuse a server that serves another model, by the last part of its name, than ``name``.

        Raises:
            EngineError: it does.
        """
        wanted = Path(name).expanduser().name
        if wanted not in {Path(self.identity["model"]).name, Path(self.identity["path"]).name}:
            raise EngineError(
                f"the engine at {self._server.url} serves {self.identity['model']} ({self.identity['path']}) and "
                f"{name} is asked for, so responses would be another model's; serve that, or if it is that, start the "
                f"engine with --served-model-name {wanted}."
            )

    def sample(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        eos_ids: list[int],
        on_batch: OnBatch | None = None,
        with_logprobs: bool = False,
        routed_by: MoEAdapter | None = None,
    ) -> list[Response]:
        """Sample one response a request; arguments as for `responses.sample`, log-probabilities after top_p.

        A response depends on its key as far as the server's sums do not depend on what else it computes.

        Raises:
            EngineError: the server fails, or answers with something else than was asked for.
        """
        if 0 < sampling.temperature < LEAST_TEMPERATURE:
            raise EngineError(
                f"vLLM does not sample at a temperature of {sampling.temperature:g}; take 0 or at least "
                f"{LEAST_TEMPERATURE}."
            )
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        if self._longest is not None and longest + sampling.max_new_tokens > self._longest:
            raise EngineError(
                f"the engine at {self._server.url} takes {self._longest} tokens and a prompt of {longest} with "
                f"{sampling.max_new_tokens} new ones is more, so it would cut responses; start it with "
                f"--max-model-len {longest + sampling.max_new_tokens}."
            )
        reader = AnswerReader(self._server.url, sampling, eos_ids, self.version, routed_by)
        return asyncio.run(self._sample(requests, reader, on_batch, with_logprobs))

    async def _sample(
        self,
        requests: Sequence[Request],
        reader: AnswerReader,
        on_batch: OnBatch | None,
        with_logprobs: bool,
    ) -> list[Response]:
        async with self._server.connections(AT_ONCE) as client:
            tasks = [
                asyncio.create_task(self._one(client, index, request, reader, with_logprobs))
                for index, request in enumerate(requests)
            ]
            responses: list[Response | None] = [None] * len(requests)
            try:
                for done in asyncio.as_completed(tasks):
                    index, response = await done
                    responses[index] = response
                    if on_batch is not None:
                        on_batch([index], [response])
            finally:
                for (
                    task
                ) in tasks:  # one has failed: the others' requests end, and with them the server's work
                    task.cancel()
        return [response for response in responses if response is not None]

    async def _one(
        self,
        client: httpx2.AsyncClient,
        index: int,
        request: Request,
        reader: AnswerReader,
        with_logprobs: bool,
    ) -> tuple[int, Response]:
        sampling = reader.sampling
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": list(request.prompt_ids),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": seed_of(request.key),
            "stop_token_ids": reader.eos_ids,
            "ignore_eos": True,  # the ids above are all that end a response, as with padd's own sampler
            "return_token_ids": True,
            "return_weight_versions": True,
            "skip_special_tokens": False,
        }
        if with_logprobs:
            body["logprobs"] = 0  # the chosen token's alone
        response = await self._server.post(
            client, "/v1/completions", body, lambda answer: reader.read(answer, request, with_logprobs)
        )
        return index, response

    def load(self, folder: Path, version: str, *, changed: bool) -> None:
        """Load weights from a folder that the server's machine sees too; requests before are finished first.

        Args:
            version: a name for them, which the server tells with each response.
            changed: they differ from those that it has; a server that keeps its old ones is refused.

        Raises:
            EngineError: it fails, is not in development mode, or has not taken them.
        """
        ask = self._server.ask
        if ask("POST", "/pause?mode=wait", missing=True) is False:
            raise EngineError(
                f"the engine at {self._server.url} has no /pause, so weights cannot be sent to it; start it with "
                "VLLM_SERVER_DEV_MODE=1 in its environment."
            )
        before = self._checksums() if changed else None
        ask("POST", "/collective_rpc", _reload(folder))
        if before is not None and self._checksums() == before:
            raise EngineError(
                f"the engine at {self._server.url} has read {folder} and its weights are what they were, so it would "
                "sample from an old student; check that its machine sees that folder, and its log."
            )
        ask("POST", "/reset_prefix_cache")
        told = ask("POST", "/update_weight_version", {"new_version": version}, missing=True)
        self.version = None if told is False else version  # old releases of vLLM have no versions
        ask("POST", "/resume")

    def _checksums(self) -> Any:
        """Return the checksum of each of the server's tensors; None where it has none to give."""
        answer = self._server.ask("POST", "/weight_checker", {"action": "checksum"}, missing=True)
        return answer["checksums"] if answer else None

    def sleep(self) -> None:
        """Free the server's memory on the GPUs until `wake`: its weights go to the host, its cache is dropped."""
        self._server.ask("POST", "/sleep?level=1&mode=wait")

    def wake(self) -> None:
        """Undo `sleep`; nothing happens where it is awake."""
        self._server.ask("POST", "/wake_up")


def _reload(folder: Path) -> dict[str, Any]:
    return {"method": "reload_weights", "kwargs": {"weights_path": str(folder.resolve())}}
