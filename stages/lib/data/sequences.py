"""Prompt-and-response token sequences and their batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class TokenSequence:
    """A prompt with its response; only the response's tokens (end-of-sequence included) count in a loss."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded sequences, with M response tokens in all, in row order.

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
        """Mask (B, R) bool of tensors made by :meth:`pad`; R is the longest response."""
        lengths = self.select.sum(1)
        return torch.arange(int(lengths.max()), device=lengths.device)[None] < lengths[:, None]

    def pad(self, values: Tensor) -> Tensor:
        """Pad values per response token, (M,) -> (B, R), zero beyond each response; differentiable."""
        mask = self.response_mask
        return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def pad_rows(
    rows: Sequence[Sequence[int]], pad_id: int, side: Literal["left", "right"] = "right"
) -> tuple[Tensor, Tensor]:
    """Return token ids (B, T), padded on one side, and their attention mask (B, T), 1 at a token."""
    ids, mask = (
        pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)
        for tensors, value in (
            ([torch.tensor(row) for row in rows], pad_id),
            ([torch.ones(len(row), dtype=torch.long) for row in rows], 0),
        )
    )
    return ids, mask


def collate(
    sequences: Sequence[TokenSequence], pad_id: int, device: torch.device | str = "cpu"
) -> TokenBatch:
    """Batch sequences, padded on the right."""
    input_ids, attention_mask = pad_rows([s.prompt_ids + s.response_ids for s in sequences], pad_id)
    select = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
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
    """Group indices so that rows x longest stays within the budget, similar lengths together.

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
    """Tokenize a worked solution as a response, closed by the end-of-sequence token."""
    ids = tokenizer(solution, add_special_tokens=False)["input_ids"]
    return (*ids, eos_id)


Text = TypeVar("Text")


def hold_out(texts: list[Text], share: float) -> tuple[list[Text], list[Text]]:
    """Split off the held-out texts: those to fit on and those held out, at least one of each."""
    kept = min(max(round(share * len(texts)), 1), len(texts) - 1)
    return texts[kept:], texts[:kept]
