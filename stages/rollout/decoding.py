"""A decoding loop for transformers' ``generate`` that computes a shared prompt once and drops finished rows."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache

from padd_artifacts.errors import PaddError

# chosen: dropping rows copies the cache, as every token does; a tenth of the rows pays for it within ten tokens
DROP_SHARE = 0.1

Choose = Callable[[Tensor, Tensor, int], Tensor]
Joint = Callable[[bool], bool]


class Decoding:
    """What `generate(..., custom_generate=...)` calls in place of its own loop.

    Args:
        prompts: (B,) the row of ``input_ids`` that each response continues.
        max_new_tokens: of a response.
        eos_ids: tokens that end one; pad_id: fills up what it does not use.
        choose: takes logits (b, V), the responses they are of (b,) and how many tokens these have; gives tokens (b,).
        joint: told before every forward, where processes share the model's weights and every forward needs all of
            them: takes whether this process has work, says whether any has.
    """

    def __init__(
        self,
        prompts: Tensor,
        max_new_tokens: int,
        eos_ids: list[int],
        pad_id: int,
        choose: Choose,
        joint: Joint | None = None,
    ) -> None:
        self.prompts, self.max_new_tokens, self.choose = prompts, max_new_tokens, choose
        self.joint: Joint = joint or (lambda working: working)
        self.eos_ids = torch.tensor(eos_ids, device=prompts.device)
        self.tokens = torch.full((len(prompts), max_new_tokens), pad_id, device=prompts.device)

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: Any = None,
        synced_gpus: bool = False,
        **state: Any,
    ) -> Tensor:
        """(P, T) prompts, left-padded -> (B, max_new_tokens) new tokens."""
        self.joint(True)
        inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **state)
        outputs = model(**inputs, return_dict=True)
        state = _take_rows(model._update_model_kwargs_for_generation(outputs, state), self.prompts)
        # as in the library's own loop: on GPUs another kernel of the experts is faster for single tokens
        with getattr(model, "_optimize_model_for_decode", nullcontext)():
            self._decode(model, outputs.logits[:, -1].float()[self.prompts], state)
        return self.tokens

    def _decode(self, model: Any, logits: Tensor, state: dict[str, Any]) -> None:
        """Token by token, from the logits (B, V) of the first."""
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
                state = _take_rows(state, kept)
            self.joint(True)
            inputs = model.prepare_inputs_for_generation(chosen[:, None], next_sequence_length=1, **state)
            outputs = model(**inputs, return_dict=True)
            state = model._update_model_kwargs_for_generation(outputs, state)
            logits = outputs.logits[:, -1].float()


def _take_rows(state: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """What ``generate`` carries from token to token, of these rows (b,) of its batch."""
    cache = state.get("past_key_values")
    if not isinstance(cache, Cache):
        raise PaddError(
            f"the model keeps {type(cache).__name__} where transformers' key-value cache is expected, so padd cannot "
            "sample from it; generate with another engine."
        )
    cache.reorder_cache(cast(torch.LongTensor, rows))
    taken = {
        name: state[name].index_select(-2, rows)  # (b, T), or (3, b, T) for positions in three axes
        for name in ("attention_mask", "position_ids")
        if state.get(name) is not None
    }
    return state | taken
