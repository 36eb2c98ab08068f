"""A language model as the root module of training: hidden states at chosen positions and a computation on them.

Whole logits are never held: log-probabilities and KL are computed in chunks from hidden states and the output
matrix. That happens *inside* the root module's forward, because a sharded output matrix (FSDP2) is only gathered
there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from padd_artifacts.errors import PaddError
from padd_stages.lib.compat.transformers import decoder_layers
from padd_stages.lib.data.sequences import TokenBatch
from padd_stages.lib.objectives.chunked import chunked_logprobs

Result = TypeVar("Result")
VERIFY_TOKENS = 7  # enough to tell a wrong head from a right one
VERIFY_TOLERANCE = 1e-3  # relative; a wrong scale or a missed bias is off by far more, bf16 by less


@dataclass(frozen=True)
class Head:
    """The output matrix (V, D), its bias and soft cap; ``scale`` multiplies the hidden states."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None

    def to(self, device: torch.device) -> "Head":
        """Return the head on a device: itself if it is there, else a copy."""
        if self.weight.device == device:
            return self
        bias = None if self.bias is None else self.bias.to(device)
        return replace(self, weight=self.weight.to(device), bias=bias)

    def scaled(self, hidden: Tensor) -> Tensor:
        """Scale hidden states so that their product with ``weight`` is the family's logits."""
        return hidden if self.scale == 1.0 else hidden * self.scale


def run_body(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Run a transformers causal LM up to its head, on the device that it is on.

    Args:
        input_ids, attention_mask: (B, T), right-padded.

    Returns:
        Hidden states (B, T, D) of the last layer.
    """
    device = model.device
    outputs = model.base_model(
        input_ids=input_ids.to(device), attention_mask=attention_mask.to(device), use_cache=False
    )
    return outputs.last_hidden_state


class Policy(nn.Module):
    """A transformers causal LM whose ``forward`` runs the body once and ``compute`` on its hidden states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        config = model.config
        scale = 1.0
        if getattr(config, "logits_scaling", None):  # Granite divides
            scale = 1.0 / config.logits_scaling
        elif getattr(config, "logit_scale", None):  # Cohere multiplies
            scale = config.logit_scale
        self._scale = float(scale)
        self._softcap = getattr(config, "final_logit_softcapping", None)  # Gemma 2

    @property
    def head(self) -> Head:
        """The current output matrix."""
        embeddings = self.model.get_output_embeddings()
        return Head(embeddings.weight, getattr(embeddings, "bias", None), self._scale, self._softcap)

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers."""
        return decoder_layers(self.model)

    def run(self, function: Callable[[], Result]) -> Result:
        """Call ``function``, which may run the wrapped model, as a forward of this module.

        Of a sharded model what is outside the layers is only whole inside the root module's forwards.
        """
        return function()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        select: Tensor,
        compute: Callable[[Tensor, Head], Result],
    ) -> Result:
        """Run the body and ``compute`` on the hidden states of the selected positions.

        Args:
            input_ids, attention_mask: (B, T), right-padded.
            select: (B, T) bool, the positions whose *next* token matters; M of them, in row order.
            compute: takes hidden states (M, D), already scaled, and the head.
        """
        hidden = run_body(self.model, input_ids, attention_mask)
        head = self.head
        return compute(head.scaled(hidden[select]), head)

    @torch.no_grad()
    def verify(self) -> None:
        """Check on a few random tokens that body and head give the model's own logits.

        Raises:
            PaddError: the family computes its logits in another way.
        """
        generator = torch.Generator().manual_seed(0)
        device = self.head.weight.device
        ids = torch.randint(0, self.head.weight.shape[0], (1, VERIFY_TOKENS), generator=generator).to(device)
        mask = torch.ones_like(ids)
        native = self.run(lambda: self.model(input_ids=ids, attention_mask=mask).logits[0].float())

        def logits(hidden: Tensor, head: Head) -> Tensor:
            value = torch.nn.functional.linear(hidden, head.weight, head.bias).float()
            return value if head.softcap is None else head.softcap * torch.tanh(value / head.softcap)

        ours = self(ids, mask, mask.bool(), logits)
        if (ours - native).abs().max() > VERIFY_TOLERANCE * native.abs().max().clamp_min(1.0):
            raise PaddError(
                f"{type(self.model).__name__} does not compute its logits as output matrix times hidden state, so "
                "padd cannot train or distil it; use a family whose head is a plain matrix (Llama, Qwen, ...)."
            )


def token_logprobs(
    hidden: Tensor, head: Head, batch: TokenBatch, temperature: float
) -> tuple[Tensor, Tensor]:
    """Compute log-probability and entropy (M,) of the response tokens at the rollout's temperature, in nats."""
    return chunked_logprobs(hidden, head.weight, batch.targets, temperature, head.bias, softcap=head.softcap)
