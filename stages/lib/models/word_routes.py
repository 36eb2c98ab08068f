"""Routes by words, of StableMoE's second stage (arXiv 2204.08396): a token's experts depend on its word alone.

docs/METHOD.md, section 5.
"""

from typing import Any

from torch import Tensor, nn

from padd_stages.lib.compat.torch import in_backward


class WordRoutes:
    """The experts of each word in each MoE layer, for whatever forward a model runs.

    The words of a forward are read where they enter the embedding, so that sampling with a cache, padding and
    checkpointed layers need nothing of their own.

    Attributes:
        table: (words, L, K), NO_ROUTE for a word that takes the choice of its own scores.
    """

    def __init__(self, model: Any, table: Tensor) -> None:
        self.table = table
        self._words: Tensor | None = None
        self._on_device: Tensor | None = None
        model.get_input_embeddings().register_forward_pre_hook(self._see)

    def _see(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not in_backward():
            self._words = inputs[0].reshape(-1)

    def of_layer(self, m: int) -> Tensor:
        """Return the routes (tokens, K) of MoE layer m in the forward that runs, or that is computed again."""
        assert self._words is not None  # the embedding comes before every router
        if self._on_device is None or self._on_device.device != self._words.device:
            self._on_device = self.table.to(self._words.device)
        return self._on_device[self._words, m]
