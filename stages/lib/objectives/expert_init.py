"""L_init: student experts activated like the teacher clusters they come from (docs/METHOD.md, sections 2 and
3).

h_j is the mean absolute activation of the neurons of cluster or expert j, before the down projection.
"""

import torch
from torch import Tensor


def activation_distribution(h: Tensor, xi: float) -> Tensor:
    """p = softmax_j((h_j / mean h) / xi); h: (..., N), not negative. Returns the same shape."""
    return _log_distribution(h, xi).exp()


def init_loss_dataset(h_student: Tensor, target: Tensor, xi: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over layers of sum_j p_S log(p_S / p_T), the two distributions of a data set.

    h_student: (L, N); target: (L, N) the p_T of the clusters, in expert order. Returns the loss and
    {"init_kl": (L,) detached}.
    """
    if h_student.shape != target.shape:
        raise ValueError(
            f"h_student is {tuple(h_student.shape)} and its target {tuple(target.shape)}; not equal."
        )
    log_student = _log_distribution(h_student, xi)  # (L, N)
    log_target = target.clamp(min=torch.finfo(target.dtype).tiny).log()
    kl = (log_student.exp() * (log_student - log_target)).sum(dim=-1)  # (L,)
    return kl.mean(), {"init_kl": kl.detach()}


def init_loss_linear(
    running: Tensor, batch_sum: Tensor, target: Tensor, xi: float, *, normalizer: float | Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """`init_loss_dataset` at a running mean, linear in the batch, so that micro-batches add up exactly.

    running: (L, N) the running mean of h_S, a constant; batch_sum: (L, N) sum over this micro-batch's tokens
    of h_S, with gradient; normalizer: tokens of the global batch (per expert (L, N) under top-K routing).
    Returns sum_lj dL/dh_lj * batch_sum_lj / normalizer, whose gradient is that of L with the batch's mean in
    the place of the running one, to first order, and {"init_kl": (L,)} at the running mean. L does not
    depend on the scale of h, so the value is the first-order change of L from the running mean to the
    batch's.
    """
    with torch.enable_grad():
        point = running.detach().clone().requires_grad_()
        loss, metrics = init_loss_dataset(point, target, xi)
        (slope,) = torch.autograd.grad(loss, point)
    # L of a micro-batch's own mean would not add up over micro-batches; a sum with the slope of L held fixed does.
    return (slope * batch_sum / normalizer).sum(), metrics


def init_loss_token(
    h_student: Tensor, h_teacher: Tensor, *, xi: float, weight: Tensor, indices: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """sum_t weight_t * mean over layers of KL(p_S(t) || p_T(t)), token by token.

    h_student: (L, T, N) under uniform routing, or (L, T, K) of the active experts under top-K with their
    indices (L, T, K); h_teacher: (L, T, N) in expert order. With indices both sides are distributions over
    the active experts only. weight: (T,) mask and normaliser. Returns the loss and {"init_kl": (T,)
    detached}.
    """
    if indices is not None:
        h_teacher = h_teacher.gather(-1, indices.long())
    if h_student.shape != h_teacher.shape or weight.shape != h_student.shape[1:2]:
        raise ValueError(
            f"h_student is {tuple(h_student.shape)}, h_teacher {tuple(h_teacher.shape)} and weight "
            f"{tuple(weight.shape)}; they must be (L, T, experts) twice and (T,)."
        )
    log_student, log_teacher = _log_distribution(h_student, xi), _log_distribution(h_teacher, xi).detach()
    kl = (log_student.exp() * (log_student - log_teacher)).sum(dim=-1).mean(dim=0)  # (T,)
    return (weight * kl).sum(), {"init_kl": kl.detach()}


def _log_distribution(h: Tensor, xi: float) -> Tensor:
    h = h if h.dtype == torch.float64 else h.float()
    mean = h.mean(dim=-1, keepdim=True).clamp(min=torch.finfo(h.dtype).tiny)
    return torch.log_softmax(h / mean / xi, dim=-1)
