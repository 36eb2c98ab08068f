"""KL divergence and log-probabilities over large vocabularies, in chunks of logits with their own backward."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from padd_stages.lib.objectives.distillation import Direction, is_forward, wide_dtype
from padd_stages.lib.objectives.precision import no_autocast

# Chosen: 256 MB a buffer in fp32, of which four to five live at once. Each chunk reads and writes the whole gradient of
# the head, so smaller ones would take longer for that than for their products.
LOGITS_PER_CHUNK = 2**26


def chunked_kl(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    *,
    weight: Tensor,
    tau_teacher: Tensor,
    tau_student: Tensor,
    direction: Direction,
    student_index: Tensor | None = None,
    teacher_index: Tensor | None = None,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    clamp: float | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute sum_t weight_t * min(KL_t, clamp) from hidden states, with the logits of one chunk of tokens at a time.

    Args:
        student_hidden, student_head: (T, D_S) and (V_S, D_S).
        teacher_hidden, teacher_head: (T, D_T) and (V_T, D_T).
        weight: (T,) mask, normaliser and any tau^2 in one number; without gradient.
        tau_teacher, tau_student: (T,) temperatures; without gradient.
        student_index, teacher_index: (M,) rows of the M shared words, aligned; both models are renormalised over
            them. None stands for all rows in order. The heads are never copied, whatever the index.
        student_bias, teacher_bias: (V_S,) and (V_T,), of the heads.
        student_softcap, teacher_softcap: the c of c * tanh(z / c).
        clamp: in nats; a token beyond has no gradient.
        chunk: tokens at a time; by default as many as keep a buffer under 256 MB.

    Returns:
        The loss (scalar), with gradients to student_hidden, student_head and student_bias where they are required, and
        {"kl": (T,) detached and not clamped}, in nats.

    Raises:
        ValueError: numbers of tokens or of words that differ.
    """
    student_rows = _head_rows(student_index, student_head.shape[0])
    teacher_rows = _head_rows(teacher_index, teacher_head.shape[0])
    counts = [w if isinstance(w, int) else w.numel() for w in (student_rows, teacher_rows)]
    if counts[0] != counts[1]:
        raise ValueError(f"Student and teacher have {counts} words; give the indices of the shared ones.")
    tokens, others = len(student_hidden), (teacher_hidden, weight, tau_teacher, tau_student)
    lengths = [len(tensor) for tensor in others]
    if lengths != 4 * [tokens]:
        raise ValueError(f"The student has {tokens} tokens; teacher, weight and temperatures have {lengths}.")
    dtype = wide_dtype(student_head, teacher_head)
    setting = _KLSetting(
        teacher_hidden.detach().to(teacher_head.dtype),
        _Head(teacher_head.detach(), teacher_bias, teacher_rows, teacher_softcap, dtype),
        weight.detach().to(dtype),
        tau_teacher.detach().to(dtype)[:, None],
        tau_student.detach().to(dtype)[:, None],
        is_forward(direction),
        clamp,
        _parts(tokens, max(len(student_head), len(teacher_head)), chunk),
    )
    options = (student_rows, student_softcap, dtype)
    student = (student_hidden.to(student_head.dtype), student_head, student_bias)
    loss, kl = _ChunkedKL.apply(*student, options, setting)  # type: ignore[misc]
    return loss, {"kl": kl}


def chunked_logprobs(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    chunk: int | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the log-probability of each target word and the entropy of its distribution, in chunks of logits.

    Args:
        hidden, head: (T, D) and (V, D).
        targets: (T,) word ids.
        temperature: divides the logits.
        bias: (V,), of the head.
        chunk, softcap: as for `chunked_kl`.

    Returns:
        Log-probabilities and entropies, (T,) each, with gradients to hidden, head and bias; in nats.

    Raises:
        ValueError: numbers of tokens that differ.
    """
    if targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"{hidden.shape[0]} hidden states and targets of shape {tuple(targets.shape)} do not match."
        )
    setting = _LogprobsSetting(targets[:, None], temperature, _parts(hidden.shape[0], head.shape[0], chunk))
    options = (head.shape[0], softcap, wide_dtype(head))
    return _ChunkedLogprobs.apply(hidden.to(head.dtype), head, bias, options, setting)  # type: ignore[return]


HeadRows = Tensor | int  # rows of a head: an index, or the first so many (no gather needed)


@dataclass(frozen=True)
class _Head:
    weight: Tensor  # (V, D)
    bias: Tensor | None  # (V,)
    rows: HeadRows
    softcap: float | None
    dtype: torch.dtype  # of softmax and what follows

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (c, M) of hidden states (c, D) as a fresh tensor."""
        if isinstance(self.rows, int):
            bias = None if self.bias is None else self.bias[: self.rows]
            z = linear(hidden, self.weight[: self.rows], bias)
        else:  # choosing among a chunk's logits costs a chunk; choosing rows would cost a head
            z = linear(hidden, self.weight, self.bias).index_select(1, self.rows)
        z = z.to(self.dtype)
        return z if self.softcap is None else z.div_(self.softcap).tanh_().mul_(self.softcap)

    def backward(
        self, grad: Tensor, z: Tensor | None, hidden: Tensor, grads: list[Tensor | None], part: slice
    ) -> None:
        """Add a chunk's share to grads [hidden (T, D), head (V, D), bias (V,)], which may be None.

        The head's and the bias's add up in a wide type: rounded to bf16 after each chunk they would be off by percents.

        Args:
            grad: (c, M) of the logits, consumed.
            z: (c, M) the logits, needed with a softcap.
        """
        if self.softcap is not None and z is not None:
            grad.mul_(1 - (z / self.softcap) ** 2)
        narrow = grad.to(self.weight.dtype)
        rows = self.rows if isinstance(self.rows, int) else self.weight.shape[0]
        if not isinstance(self.rows, int):
            narrow = narrow.new_zeros(len(grad), rows).index_add_(1, self.rows, narrow)
        to_hidden, to_head, to_bias = grads
        if to_hidden is not None:
            to_hidden[part] = narrow @ self.weight[:rows]
        if to_head is not None:
            if to_head.dtype == narrow.dtype:
                to_head[:rows].addmm_(narrow.T, hidden)
            else:
                to_head[:rows] += narrow.T @ hidden
        if to_bias is not None:
            to_bias[:rows] += narrow.sum(dim=0, dtype=to_bias.dtype)


@dataclass(frozen=True)
class _KLSetting:
    teacher_hidden: Tensor  # (T, D_T)
    teacher: _Head
    weight: Tensor  # (T,)
    tau_teacher: Tensor  # (T, 1)
    tau_student: Tensor  # (T, 1)
    forward: bool
    clamp: float | None
    parts: list[slice]

    def teacher_log(self, part: slice) -> Tensor:
        z = self.teacher.logits(self.teacher_hidden[part])
        return torch.log_softmax(z.div_(self.tau_teacher[part]), dim=-1)  # (c, M)


def _kl_gradient(log: Tensor, teacher_log: Tensor, forward: bool) -> Tensor:
    """Return d KL / d student logits at their temperature, (c, M); consumes both log-probabilities (c, M)."""
    if forward:
        return log.exp_().sub_(teacher_log.exp_())  # p_S - p_T
    p, difference = log.exp(), log.sub_(teacher_log)
    return difference.sub_((p * difference).sum(dim=-1, keepdim=True)).mul_(p)  # p_S (log p_S - log p_T - KL)


class _ChunkedKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, bias: Tensor | None, options: tuple, setting: Any):
        ctx.save_for_backward(hidden, head, bias)
        ctx.options, ctx.setting = options, setting
        student = _Head(head, bias, *options)
        kl = torch.empty(len(hidden), dtype=student.dtype, device=hidden.device)
        with no_autocast(hidden.device):
            for part in setting.parts:
                log = torch.log_softmax(student.logits(hidden[part]).div_(setting.tau_student[part]), dim=-1)
                teacher_log = setting.teacher_log(part)
                first, second = (teacher_log, log) if setting.forward else (log, teacher_log)
                kl[part] = second.neg_().add_(first).mul_(first.exp_()).sum(dim=-1)
        ctx.mark_non_differentiable(kl)
        ctx.weight, counted = setting.weight, kl
        if setting.clamp is not None:
            ctx.weight = torch.where(kl > setting.clamp, 0.0, setting.weight)
            counted = kl.clamp(max=setting.clamp)
        return (setting.weight * counted).sum(), kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor):  # type: ignore[override]
        hidden, head, bias = ctx.saved_tensors
        setting, student = ctx.setting, _Head(head, bias, *ctx.options)
        grads = _zeros(ctx, student.dtype)
        with no_autocast(hidden.device):
            for part in setting.parts:
                z = student.logits(hidden[part])
                kept = z.clone() if student.softcap is not None else None
                z = torch.log_softmax(z.div_(setting.tau_student[part]), dim=-1)  # (c, M)
                grad = _kl_gradient(z, setting.teacher_log(part), setting.forward)
                grad.mul_(grad_loss * ctx.weight[part, None] / setting.tau_student[part])
                student.backward(grad, kept, hidden[part], grads, part)
        return *_narrowed(ctx, grads), None, None


@dataclass(frozen=True)
class _LogprobsSetting:
    targets: Tensor  # (T, 1)
    temperature: float
    parts: list[slice]


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, bias: Tensor | None, options: tuple, setting: Any):
        student = _Head(head, bias, *options)
        logprobs, entropy, total = hidden.new_empty((3, len(hidden), 1), dtype=student.dtype).unbind()
        with no_autocast(hidden.device):
            for part in setting.parts:
                z = student.logits(hidden[part]).div_(setting.temperature)  # (c, V)
                total[part] = z.logsumexp(dim=-1, keepdim=True)
                logprobs[part] = z.gather(1, setting.targets[part]) - total[part]
                entropy[part] = total[part] - (z - total[part]).exp_().mul_(z).sum(dim=-1, keepdim=True)
        ctx.save_for_backward(hidden, head, bias, total, entropy)
        ctx.options, ctx.setting = options, setting
        ctx.set_materialize_grads(False)  # most losses have no entropy in them
        return logprobs[:, 0].clone(), entropy[:, 0].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None):  # type: ignore[override]
        hidden, head, bias, total, entropy = ctx.saved_tensors
        setting, student = ctx.setting, _Head(head, bias, *ctx.options)
        grads = _zeros(ctx, student.dtype)
        with no_autocast(hidden.device):
            for part in setting.parts:
                z = student.logits(hidden[part])
                kept = z.clone() if student.softcap is not None else None
                log = z.div_(setting.temperature).sub_(total[part])
                of_entropy = None
                if grad_entropy is not None:  # - p (log p + H)
                    of_entropy = (log + entropy[part]).mul_(log.exp()).mul_(-grad_entropy[part, None])
                grad = log.exp_().neg_()
                grad.scatter_add_(1, setting.targets[part], torch.ones_like(total[part]))  # 1[target] - p
                grad.mul_(0.0 if grad_logprobs is None else grad_logprobs[part, None])
                grad = (grad if of_entropy is None else grad.add_(of_entropy)).div_(setting.temperature)
                student.backward(grad, kept, hidden[part], grads, part)
        return *_narrowed(ctx, grads), None, None


def _zeros(ctx: Any, wide: torch.dtype) -> list[Tensor | None]:
    """Return zeros for the gradients of hidden states, head and bias that are wanted; the last two in a wide type."""
    inputs = ctx.saved_tensors[:3]
    return [
        torch.zeros_like(tensor, dtype=tensor.dtype if i == 0 else wide) if wanted else None
        for i, (tensor, wanted) in enumerate(zip(inputs, ctx.needs_input_grad))
    ]


def _narrowed(ctx: Any, grads: list[Tensor | None]) -> list[Tensor | None]:
    """Return the gradients in the types of their inputs."""
    return [None if g is None else g.to(t.dtype) for g, t in zip(grads, ctx.saved_tensors)]


def _head_rows(index: Tensor | None, size: int) -> HeadRows:
    if index is None:
        return size
    count = index.numel()
    if count <= size and torch.equal(index, torch.arange(count, dtype=index.dtype, device=index.device)):
        return count
    return index.long()


def _parts(tokens: int, words: int, chunk: int | None) -> list[slice]:
    size = max(1, LOGITS_PER_CHUNK // words) if chunk is None else chunk
    if size < 1:
        raise ValueError(f"chunk is {size}; it must be 1 token or more.")
    return [slice(start, start + size) for start in range(0, tokens, size)]
