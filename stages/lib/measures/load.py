"""Balance of the routed slots of each MoE layer over its experts (docs/METHOD.md, sections 4 and 8)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from padd_stages.lib.measures.specialisation import Floats, entropy


@dataclass(frozen=True)
class Load:
    """The load of L layers of N experts.

    Attributes:
        share: (L, N) f_j, share of a layer's routed slots that went to expert j; 1/N each where a layer has none.
        entropy: (L,) of f over log N; 1 is even.
        gini: (L,) 0 is even, (N - 1) / N is all slots on one expert.
        max_vio: (L,) max_j N f_j - 1; 0 is even, N - 1 is all slots on one expert.
        dead: (L, N) experts that no slot went to.
    """

    share: Floats
    entropy: Floats
    gini: Floats
    max_vio: Floats
    dead: NDArray[np.bool_]


def expert_load(counts: ArrayLike) -> Load:
    """Compute the load of each layer from its routed slots per expert (L, N)."""
    array = np.asarray(counts, dtype=np.float64)
    experts = array.shape[1]
    even = np.where(array.any(axis=1, keepdims=True), array, 1.0)
    share = even / even.sum(axis=1, keepdims=True)
    ranks = np.arange(1, experts + 1)
    return Load(
        share=share,
        entropy=entropy(even) / np.log(max(experts, 2)),
        gini=((2 * ranks - experts - 1) * np.sort(share)).sum(axis=1) / experts,
        max_vio=experts * share.max(axis=1) - 1,
        dead=array == 0,
    )
