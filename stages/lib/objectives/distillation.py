"""The KL of each token at a temperature of its own (docs/METHOD.md, sections 3 and 4).

Here is the formula, for logits that fit in memory; training runs chunked.py. Logits of 152k words for every token do
not fit, so its functions take hidden states and output matrices, compute the logits of a chunk of tokens at a time,
and compute them again in the backward pass. Products are in the weights' dtype, softmax and what follows in fp32
(fp64 for fp64 weights), under autocast too.
"""

from typing import Literal

import torch
from torch import Tensor

Direction = Literal["forward", "reverse"]


def kl_divergence(
    teacher_logits: Tensor,
    student_logits: Tensor,
    tau_teacher: Tensor,
    tau_student: Tensor,
    direction: Direction,
) -> Tensor:
    """Compute the KL of each token in nats: forward KL(teacher || student), reverse KL(student || teacher).

    Args:
        teacher_logits, student_logits: (T, V), over the same words.
        tau_teacher, tau_student: (T,); they divide the logits.

    Returns:
        (T,), fp64 if either of the logits is, else fp32.
    """
    dtype = wide_dtype(teacher_logits, student_logits)
    teacher = torch.log_softmax(teacher_logits.to(dtype) / tau_teacher[:, None], dim=-1)  # (T, V)
    student = torch.log_softmax(student_logits.to(dtype) / tau_student[:, None], dim=-1)
    first, second = (teacher, student) if is_forward(direction) else (student, teacher)
    return (first.exp() * (first - second)).sum(dim=-1)


def wide_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def is_forward(direction: Direction) -> bool:
    if direction not in ("forward", "reverse"):
        raise ValueError(f"direction is {direction!r}, not 'forward' or 'reverse'.")
    return direction == "forward"
