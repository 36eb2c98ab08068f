"""L_init: student experts activated like the teacher clusters they come from (docs/METHOD.md, sections 2 and 3).

h_j is the mean absolute activation of the neurons of cluster or expert j, before the down projection.
"""

import torch
from torch import Tensor


def activation_distribution(h: Tensor, xi: float) -> Tensor:
    """Compute p = softmax_j((h_j / mean h) / xi) of h (..., N), not negative; of the same shape."""
    return _log_distribution(h, xi).exp()


def init_loss_dataset(h_student: Tensor, target: Tensor, xi: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the mean over layers of sum_j p_S log(p_S / p_T), of the two distributions of a data set.

    Args:
        h_student: (L, N).
        target: (L, N), the p_T of the clusters, in expert order.

    Returns:
        The loss and {"init_kl": (L,) detached}.
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
    """Compute `init_loss_dataset` at a running mean, linear in the batch, so that micro-batches add up exactly.

    The gradient is, to first order, that of L with the batch's mean in the place of the running one. L does not depend
    on the scale of h, so the value is the first-order change of L from the running mean to the batch's.

    Args:
        running: (L, N), the running mean of h_S, a constant.
        batch_sum: (L, N), sum of h_S over this micro-batch's tokens, with gradient.
        target: (L, N), as for `init_loss_dataset`.
        normalizer: tokens of the global batch (per expert (L, N) under top-K routing).

    Returns:
        sum_lj dL/dh_lj * batch_sum_lj / normalizer, and {"init_kl": (L,)} at the running mean.
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
    """Compute sum_t weight_t * mean over layers of KL(p_S(t) || p_T(t)), token by token.

    Args:
        h_student: (L, T, N) under uniform routing, or (L, T, K) of the active experts under top-K routing.
        h_teacher: (L, T, N) in expert order.
        weight: (T,) mask and normaliser.
        indices: (L, T, K) of the active experts; both sides are then distributions over these alone.

    Returns:
        The loss and {"init_kl": (T,) detached}.
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
