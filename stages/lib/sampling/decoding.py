"""Token-by-token decoding with a model's own forward; prompts are shared, finished rows are dropped.

Of transformers this uses the forward of a causal LM and its cache, both public, and not `generate`, whose loop
rests on methods that a release may rename.
"""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from padd_artifacts.errors import PaddError
from padd_stages.lib.compat.transformers import find_cache, single_token_kernels
from padd_stages.lib.sampling.routes import RouteRecorder

# chosen: dropping rows copies the cache, as every token does; a tenth of the rows pays for it within ten tokens
DROP_SHARE = 0.1

Choose = Callable[[Tensor, Tensor, int], Tensor]
AnyWorking = Callable[[bool], bool]


class Decoding:
    """Responses to a batch of prompts.

    Args:
        model: a transformers causal LM.
        prompts: (B,) the row of the prompts that each response continues.
        max_new_tokens: of a response.
        eos_ids: tokens that end one.
        pad_id: fills up a response after its end.
        choose: (logits (b, V), their responses (b,), tokens so far) -> next tokens (b,).
        any_working: where processes share the model's weights, so that every forward needs all of them: called before
            every forward with whether this process has work, returns whether any has.
        recorder: of the routes of these responses.
    """

    def __init__(
        self,
        model: Any,
        prompts: Tensor,
        max_new_tokens: int,
        eos_ids: list[int],
        pad_id: int,
        choose: Choose,
        any_working: AnyWorking | None = None,
        recorder: RouteRecorder | None = None,
    ) -> None:
        self._recorder = recorder
        self.prompts, self.max_new_tokens, self.choose = prompts, max_new_tokens, choose
        self.eos_ids = torch.tensor(eos_ids, device=prompts.device)
        self.tokens = torch.full((len(prompts), max_new_tokens), pad_id, device=prompts.device)
        self._model = model
        self._cached = _CachedModel(model, any_working or (lambda working: working))

    def run(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Decode the left-padded prompts (P, T) with their mask into new tokens (B, max_new_tokens).

        Raises:
            PaddError: the model returns no key-value cache.
        """
        with nullcontext() if self._recorder is None else self._recorder.reading_prompts():
            logits = self._cached.read_prompts(input_ids, attention_mask)[self.prompts]
        self._cached.keep_rows(self.prompts)
        with single_token_kernels(self._model):
            self._decode(logits)
        return self.tokens

    def _decode(self, logits: Tensor) -> None:
        """Decode token by token, from the logits (B, V) of the first."""
        rows = torch.arange(len(logits), device=logits.device)  # the responses that go on
        going = torch.ones_like(rows, dtype=torch.bool)
        for count in range(self.max_new_tokens):
            chosen = self.choose(logits, rows, count)
            self.tokens[rows[going], count] = chosen[going]
            going &= ~torch.isin(chosen, self.eos_ids)
            left = int(going.sum())
            if not left or count + 1 == self.max_new_tokens:
                break
            if len(rows) - left >= DROP_SHARE * len(rows):
                kept = going.nonzero()[:, 0]
                rows, chosen, going = rows[kept], chosen[kept], going[kept]
                self._cached.keep_rows(kept)
            with nullcontext() if self._recorder is None else self._recorder.reading_tokens(rows, count):
                logits = self._cached.read_token(chosen)


class _CachedModel:
    """A model with its key-value cache, attention mask and positions, one row a sequence."""

    def __init__(self, model: Any, any_working: AnyWorking) -> None:
        self._model, self._any_working = model, any_working
        accepted = inspect.signature(model.forward).parameters
        self._fixed: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in accepted:  # of a prompt only the last position's logits are wanted
            self._fixed["logits_to_keep"] = 1
        self._takes_positions = "position_ids" in accepted
        self._cache_name, self._cache = "", None
        self._mask: Tensor | None = None  # (b, T so far); None where nothing is padded
        self._last: Tensor | None = None  # (b, 1) position of the last token

    def read_prompts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Run the prompts (P, T); return the logits (P, V) after the last token."""
        positions = (attention_mask.cumsum(-1) - 1).clamp_min(0)
        self._last = positions[:, -1:]
        # kernels for plain causal attention are faster, and are not taken where there is a mask
        self._mask = None if bool(attention_mask.all()) else attention_mask
        return self._forward(input_ids, positions)

    def read_token(self, tokens: Tensor) -> Tensor:
        """Run one more token a row (b,); return the logits (b, V) after it."""
        assert self._last is not None
        self._last = self._last + 1
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        return self._forward(tokens[:, None], self._last)

    def keep_rows(self, rows: Tensor) -> None:
        """Keep these rows (b,) of the batch, in this order."""
        assert self._cache is not None
        assert self._last is not None
        self._cache.reorder_cache(cast(torch.LongTensor, rows))
        self._last = self._last[rows]
        self._mask = None if self._mask is None else self._mask[rows]

    def _forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        self._any_working(True)
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": self._mask, **self._fixed}
        if self._takes_positions:
            inputs["position_ids"] = positions
        if self._cache is not None:
            inputs[self._cache_name] = self._cache
        outputs = self._model(**inputs)
        if self._cache is None:
            found = find_cache(outputs)
            if found is None:
                raise PaddError(
                    f"{type(self._model).__name__} returns no key-value cache, so padd cannot sample from it; generate "
                    "with another engine and grade its output with `padd eval --responses`."
                )
            self._cache_name, self._cache = found
        return outputs.logits[:, -1].float()
