"""Ridge regression h_T = M h_S over tokens, from sums alone: one pass, no token is kept.

docs/METHOD.md, section 2, "Router initialisation": h_S is the input of the student's MoE block, h_T that of the
teacher's FFN. With M, mu . h_T = (M^T mu) . h_S, so that a router row M^T mu does in the student what the centroid mu
did in the teacher. There is no intercept, since a router has none.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from padd_artifacts.errors import PaddError


class RidgeSums:
    """Normal equations in fp64: products on the device that the tokens are on, sums on the CPU.

    8 (d_S^2 + d_S d_T) bytes: 92 MB at d_S 2048 and d_T 3584, 4.4 GB for 48 MoE layers, whose inputs all differ. So
    each layer's sums are let go once they are solved; :meth:`solve` needs 130 MB more, map included.
    """

    def __init__(self, inputs: int, targets: int) -> None:
        """Start from zero; ``inputs`` is d_S, ``targets`` d_T."""
        self.gram = torch.zeros(inputs, inputs, dtype=torch.float64)  # (d_S, d_S)
        self.cross = torch.zeros(inputs, targets, dtype=torch.float64)  # (d_S, d_T)
        self.count = 0

    def add(self, student: Tensor, teacher: Tensor) -> None:
        """Add tokens: student (tokens, d_S) and, row by row of the same tokens, teacher (tokens, d_T)."""
        student, teacher = student.double(), teacher.to(student.device).double()
        self.gram += (student.T @ student).cpu()
        self.cross += (student.T @ teacher).cpu()
        self.count += len(student)

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Take the sums over all processes in place of this one's; ``total`` returns that of a tensor."""
        self.gram, self.cross = total(self.gram), total(self.cross)
        self.count = int(total(torch.tensor(self.count)))

    def solve(self, penalty: float) -> Tensor:
        """Return M (d_T, d_S) fp64 that minimises the squared error + lambda |M|^2.

        Args:
            penalty: lambda as a share of the mean diagonal of the Gram matrix, so that it means the same for any
                number of tokens and any scale of the hidden states; above 0.

        Raises:
            PaddError: no token was added, or the sums are not finite.
        """
        scale = float(self.gram.diagonal().mean())
        if self.count == 0 or not scale > 0 or not bool(self.cross.isfinite().all()):
            raise PaddError(
                f"the ridge map has {self.count} tokens and a mean square of {scale:.3g} to be fitted to, so there is "
                "no map from the teacher to the student; give it more rows of D_A, or take --router-map keep "
                "--no-compare-maps."
            )
        damped = self.gram.clone()
        damped.diagonal().add_(penalty * scale)
        return torch.cholesky_solve(self.cross, torch.linalg.cholesky(damped)).T


@dataclass
class FitSums:
    """Residuals of a map on held-out tokens: products in fp32 on the tokens' device, sums in fp64."""

    residual: float = 0.0
    squares: float = 0.0
    total: Tensor | None = None
    count: int = 0

    def add(self, mapping: Tensor, student: Tensor, teacher: Tensor) -> None:
        """Add tokens: mapping M (d_T, d_S), student (tokens, d_S), teacher (tokens, d_T)."""
        student, teacher = student.float(), teacher.to(student.device).float()
        predicted = student @ mapping.to(student.device, torch.float32).T
        self.residual += float((teacher - predicted).double().square().sum())
        self.squares += float(teacher.double().square().sum())
        summed = teacher.double().sum(dim=0).cpu()
        self.total = summed if self.total is None else self.total + summed
        self.count += len(teacher)

    def add_up(self, total: Callable[[Tensor], Tensor], targets: int) -> None:
        """Take the sums over all processes in place of this one's, of targets of d_T numbers."""
        sums = torch.tensor([self.residual, self.squares, self.count], dtype=torch.float64)
        self.residual, self.squares, count = total(sums).tolist()
        self.count = int(count)
        summed = torch.zeros(targets, dtype=torch.float64) if self.total is None else self.total
        self.total = total(summed) if self.count else None

    def r_squared(self) -> float | None:
        """Return 1 - residual / variance of h_T around its mean over these tokens; None if that variance is 0."""
        if self.total is None:
            return None
        variance = self.squares - float(self.total.square().sum()) / self.count
        return 1 - self.residual / variance if variance > 0 else None
