"""Prompt-and-response token sequences, and how they are batched for a forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenSequence:
    """A prompt with its response; only the response's tokens (end-of-sequence included) count in a loss."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded sequences. M response tokens in all, in row order.

    Attributes:
        input_ids, attention_mask: (B, T).
        select: (B, T) bool, positions whose next token is a response token.
        targets: (M,) those response tokens.
        rows: (M,) the row of each.
    """

    input_ids: Tensor
    attention_mask: Tensor
    select: Tensor
    targets: Tensor
    rows: Tensor

    @property
    def response_mask(self) -> Tensor:
        """(B, R) bool, for tensors made by :meth:`pad`; R is the longest response."""
        lengths = self.select.sum(1)
        return torch.arange(int(lengths.max()), device=lengths.device)[None] < lengths[:, None]

    def pad(self, values: Tensor) -> Tensor:
        """(M,) per response token -> (B, R), zero beyond each response; differentiable."""
        mask = self.response_mask
        return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def collate(
    sequences: Sequence[TokenSequence], pad_id: int, device: torch.device | str = "cpu"
) -> TokenBatch:
    """Pad sequences on the right."""
    width = max(len(sequence) for sequence in sequences)
    input_ids = torch.full((len(sequences), width), pad_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    select = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence)] = torch.tensor(sequence.prompt_ids + sequence.response_ids)
        attention_mask[row, : len(sequence)] = 1
        select[row, len(sequence.prompt_ids) - 1 : len(sequence) - 1] = True
    shifted = torch.roll(input_ids, -1, dims=1)
    rows = torch.arange(len(sequences))[:, None].expand_as(select)[select]
    return TokenBatch(
        input_ids.to(device),
        attention_mask.to(device),
        select.to(device),
        shifted[select].to(device),
        rows.to(device),
    )


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices grouped so that rows x longest stays within the budget, like lengths together.

    A sequence longer than the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= token_budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def solution_ids(tokenizer: Any, solution: str, eos_id: int) -> tuple[int, ...]:
    """A worked solution as response tokens, closed by the end-of-sequence token."""
    ids = tokenizer(solution, add_special_tokens=False)["input_ids"]
    return (*ids, eos_id)


Text = TypeVar("Text")


def hold_out(texts: list[Text], share: float) -> tuple[list[Text], list[Text]]:
    """The texts to fit on and those held out, at least one of each."""
    kept = min(max(round(share * len(texts)), 1), len(texts) - 1)
    return texts[kept:], texts[:kept]
