"""Answers of vLLM's /v1/completions as responses; those that are not what was asked for are refused."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padd_stages.lib.models.moe_adapter import NO_ROUTE, MoEAdapter
from padd_stages.lib.sampling.responses import Request, Response, Sampling
from padd_stages.lib.sampling.routes import route_dtype
from padd_stages.lib.sampling.server import EngineError, Unfinished


class AnswerReader:
    """Makes responses of the answers to one call of the engine.

    Args:
        version: of the weights that an answer must be of; None where that is not known.
        routed_by: the student's adapter, where routes are wanted.
    """

    def __init__(
        self,
        url: str,
        sampling: Sampling,
        eos_ids: list[int],
        version: str | None,
        routed_by: MoEAdapter | None,
    ) -> None:
        self._url, self.sampling, self.eos_ids = url, sampling, eos_ids
        self._version, self._routed_by = version, routed_by

    def read(self, answer: Any, request: Request, with_logprobs: bool) -> Response:
        """Return the response of an answer of /v1/completions.

        Raises:
            Unfinished: the server broke it off.
            EngineError: it is of other weights, another prompt, or lacks something.
        """
        try:
            choice = answer["choices"][0]
            reason, tokens = choice["finish_reason"], choice.get("token_ids")
        except (KeyError, IndexError, TypeError) as error:
            raise Unfinished(f"its answer lacks {error}") from error
        if reason == "abort":
            raise Unfinished("it aborted the request")
        if tokens is None or choice.get("prompt_token_ids") != list(request.prompt_ids):
            raise self._refusal(
                "does not return the token ids of prompt and response", "take vLLM 0.22 or newer"
            )
        self._check_version(choice)
        self._check_end(reason, tokens)
        logprobs: Sequence[float] = ()
        if with_logprobs:
            logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or ()
            if len(logprobs) != len(tokens):
                raise self._refusal(
                    f"gave {len(logprobs)} log-probabilities for {len(tokens)} tokens",
                    "take vLLM 0.22 or newer",
                )
        routes = None if self._routed_by is None else self._routes(choice, request, len(tokens))
        return Response(tuple(tokens), reason == "length", tuple(logprobs), routes)

    def _check_version(self, choice: dict[str, Any]) -> None:
        versions = {part["version"] for part in choice.get("weight_versions") or ()}
        if self._version is not None and versions - {self._version}:
            raise self._refusal(
                f"answered with weights {', '.join(sorted(versions))} and {self._version} is asked for, so responses "
                "are an old student's",
                "let no other program change its weights",
            )

    def _check_end(self, reason: str, tokens: list[int]) -> None:
        if reason == "stop" and (not tokens or tokens[-1] not in self.eos_ids):
            raise self._refusal(
                f"ended a response with token {tokens[-1] if tokens else None}, which is none of the model's ends "
                f"({', '.join(map(str, self.eos_ids))})",
                "start it with --generation-config vllm",
            )
        if reason == "length" and len(tokens) != self.sampling.max_new_tokens:
            raise self._refusal(
                f"cut a response at {len(tokens)} of {self.sampling.max_new_tokens} tokens",
                "raise its --max-model-len",
            )
        if reason not in ("stop", "length"):
            raise self._refusal(f"ended a response for the reason '{reason}'", "see its log")

    def _routes(self, choice: dict[str, Any], request: Request, new_tokens: int) -> Tensor:
        """Return the routes (L, prompt + response, K); the last token has none, since it was never read."""
        adapter, encoded = self._routed_by, choice.get("routed_experts")
        assert adapter is not None
        if encoded is None:
            raise self._refusal(
                "returns no routes, which --router-replay rollout needs",
                "start it with --enable-return-routed-experts",
            )
        routed = np.load(
            io.BytesIO(base64.b64decode(encoded)), allow_pickle=False
        )  # (tokens - 1, all layers, K)
        tokens = len(request.prompt_ids) + new_tokens
        last_layer = max(layer.layer_index for layer in adapter.layers)
        if (
            routed.ndim != 3
            or len(routed) != tokens - 1
            or routed.shape[1] <= last_layer
            or routed.shape[2] != adapter.top_k
        ):
            raise self._refusal(
                f"returns routes of shape {routed.shape} for {tokens} tokens, {last_layer + 1} layers and "
                f"{adapter.top_k} experts a token",
                "check that it serves this student",
            )
        routes = torch.full(
            (adapter.num_layers, tokens, adapter.top_k), NO_ROUTE, dtype=route_dtype(adapter.num_experts)
        )
        for m, layer in enumerate(adapter.layers):
            routes[m, :-1] = torch.from_numpy(routed[:, layer.layer_index].astype(np.int64)).to(routes.dtype)
        return routes

    def _refusal(self, what: str, way_out: str) -> EngineError:
        return EngineError(f"the engine at {self._url} {what}, so the run stops; {way_out}.")
