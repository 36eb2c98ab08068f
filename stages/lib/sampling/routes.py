"""Routes of sampled responses: the experts that the sampler sent every token to, for router replay.

Source: R3, rollout routing replay (arXiv 2510.11370); docs/METHOD.md, section 5.
"""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from padd_stages.lib.models.moe_adapter import NO_ROUTE, MoEAdapter


def route_dtype(num_experts: int) -> torch.dtype:
    """Return the smallest type that holds every expert's number and NO_ROUTE."""
    return torch.int8 if num_experts <= torch.iinfo(torch.int8).max + 1 else torch.int16


class RouteRecorder:
    """The routes of a batch of B responses while it is decoded, on the device until they are asked for.

    Args:
        prompts: (B,) the row of the prompts that each response continues.
        prompt_mask: (P, T) of the left-padded prompts.
        new_tokens: of a response, at most.
    """

    def __init__(self, adapter: MoEAdapter, prompts: Tensor, prompt_mask: Tensor, new_tokens: int) -> None:
        self._adapter, self._prompts, self._mask = adapter, prompts, prompt_mask.bool()
        sizes = ((*prompt_mask.shape,), (len(prompts), new_tokens))
        self._of_prompts, self._of_tokens = (
            torch.full(
                (adapter.num_layers, *size, adapter.top_k),
                NO_ROUTE,
                dtype=route_dtype(adapter.num_experts),
                device=prompts.device,
            )
            for size in sizes
        )

    def reading_prompts(self) -> AbstractContextManager[None]:
        """Record the one forward inside, of all prompts."""

        def see(m: int, _: Tensor, indices: Tensor) -> None:
            self._of_prompts[m] = indices.view(self._of_prompts[m].shape).to(self._of_prompts.dtype)

        return self._adapter.observe(see)

    def reading_tokens(self, responses: Tensor, count: int) -> AbstractContextManager[None]:
        """Record the one forward inside, of the token number ``count`` of each of the responses (b,)."""

        def see(m: int, _: Tensor, indices: Tensor) -> None:
            self._of_tokens[m, responses, count] = indices.to(self._of_tokens.dtype)

        return self._adapter.observe(see)

    def of(self, response: int, length: int) -> Tensor:
        """Return the routes (L, prompt + length, K) of a response of ``length`` tokens, on the host.

        The last token was never read, so unless another response went on beside it, it has none: NO_ROUTE.
        """
        row = int(self._prompts[response])
        prompt = self._of_prompts[:, row][:, self._mask[row]]
        return torch.cat([prompt, self._of_tokens[:, response, :length]], dim=1).cpu()


def batch_routes(routes: list[Tensor], width: int) -> Tensor:
    """Lay the routes (L, tokens, K) of sequences out as a right-padded batch of ``width``: (L, B * width, K)."""
    layers, _, top_k = routes[0].shape
    laid = torch.full((layers, len(routes), width, top_k), NO_ROUTE, dtype=routes[0].dtype)
    for row, found in enumerate(routes):
        laid[:, row, : found.shape[1]] = found
    return laid.flatten(1, 2)
