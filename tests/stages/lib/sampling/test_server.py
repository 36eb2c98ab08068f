"""Requests to a server: what is retried, and the one sentence where nothing helps."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from vllm_server import VllmServer

from padd_stages.lib.sampling import server as module
from padd_stages.lib.sampling.server import EngineError, Server, Unfinished


@pytest.fixture
def served(pico, monkeypatch):
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.01, 0.01))
    with VllmServer(pico.student) as server:
        yield server


def completion(server: VllmServer, timeout: float = 60.0, read: Callable[[Any], Any] = lambda a: a) -> Any:
    body = {
        "model": server.name,
        "prompt": [5, 6],
        "max_tokens": 2,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": 1,
        "stop_token_ids": [],
    }

    async def ask() -> Any:
        client = Server(server.url, timeout)
        async with client.connections(4) as connections:
            return await client.post(connections, "/v1/completions", body, read)

    return asyncio.run(ask())


@pytest.mark.parametrize("fault", ["error500", "error503", "cut_json"])
def test_a_failure_of_the_moment_is_tried_again(served, fault):
    served.faults[fault] = 2
    assert len(completion(served)["choices"][0]["token_ids"]) == 2
    assert served.calls["/v1/completions"] == 3


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("error500", "EngineCore encountered"),
        ("error503", "paused"),
        ("cut_json", "no JSON"),
        ("gone", "disconnected"),
    ],
)
def test_a_failure_that_stays_is_one_sentence(served, fault, said):
    served.faults[fault] = 99
    with pytest.raises(EngineError, match=rf"failed at /v1/completions 4 times .*{said}.*--resume\.$"):
        completion(served)
    assert served.calls["/v1/completions"] == 4


def test_an_answer_that_takes_too_long_is_given_up(served):
    served.faults["hang"] = 99
    served.hang_seconds = 1.0
    started = time.monotonic()
    with pytest.raises(EngineError, match="Timeout"):
        completion(served, timeout=0.1)
    assert time.monotonic() - started < 3


def test_a_refusal_is_not_tried_again(served):
    served.dev_mode = False
    with pytest.raises(EngineError, match=r"refuses /pause \(status 404: Not Found\)"):
        Server(served.url, 5.0).ask("POST", "/pause")
    assert served.calls["/pause"] == 1
    assert Server(served.url, 5.0).ask("POST", "/pause", missing=True) is False


def test_what_the_reader_finds_broken_off_is_asked_for_again(served):
    seen: list[Any] = []

    def read(answer: Any) -> str:
        seen.append(answer)
        if len(seen) < 3:
            raise Unfinished("half")
        return "whole"

    assert completion(served, read=read) == "whole"
    assert served.calls["/v1/completions"] == 3


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(module, "PAUSES", (0.0,))
    with pytest.raises(EngineError, match=r"the engine at http://127\.0\.0\.1:9 failed at /version 2 times"):
        Server("http://127.0.0.1:9/", 1.0).ask("GET", "/version")
