"""StableMoE's first stage: a router by words learns the student's routes, then takes its place (docs/METHOD.md, 5)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from padd_artifacts.errors import PaddError
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.moe_adapter import NO_ROUTE, MoEAdapter
from padd_stages.lib.models.policy import Head
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.seeds import generator_for
from padd_stages.lib.sampling.routes import route_dtype
from padd_stages.train.old_policy import OldPass
from padd_stages.train.options import TrainOptions

SIZE = 50  # numbers of a word's embedding, the paper's
RATE = 0.01  # chosen: Adam's, of 50 numbers a word that start small
ROUNDS = 50  # chosen: steps a rollout; a tenth of the rollouts must be enough


def stage_one(options: TrainOptions) -> int:
    """Return the number of rollouts of the first stage; 0 without StableMoE."""
    return max(1, round(options.stable_moe * options.steps)) if options.stable_moe else 0


@dataclass(frozen=True)
class _Seen:
    """Words (T,) of a micro-batch's tokens, and each layer's experts and their renormalised weights, (L, T, K)."""

    words: Tensor
    experts: Tensor
    weights: Tensor


class WordRouter:
    """Scores C_m e(word) of N experts in each of L layers, the same in every process.

    Attributes:
        embedding: e, (words, 50).
        centroids: C, (L, N, 50).
        seen: (words,) whether a token of the first stage was that word.
    """

    def __init__(self, student: LanguageModel, options: TrainOptions, processes: Processes) -> None:
        adapter = student.adapter
        assert adapter is not None  # checked before anything is loaded
        if adapter.words is not None:
            raise PaddError(
                "--stable-moe learns routes by words and this student has some already, which its own routers would "
                "never choose again; leave it out, and the student keeps them."
            )
        self._adapter, self._processes = adapter, processes
        words = student.model.get_input_embeddings().weight.shape[0]
        draw = generator_for(options.seed, "word-router")
        shapes = {"embedding": (words, SIZE), "centroids": (adapter.num_layers, adapter.num_experts, SIZE)}
        parameters = {
            name: nn.Parameter(
                torch.tensor(draw.normal(0, 0.1, shape), dtype=torch.float32).to(processes.device)
            )
            for name, shape in shapes.items()
        }
        self.embedding, self.centroids = parameters["embedding"], parameters["centroids"]
        self.seen = torch.zeros(words, dtype=torch.bool)
        self._optimizer = torch.optim.Adam(parameters.values(), lr=RATE)

    def scores(self, words: Tensor, m: int) -> Tensor:
        """Return the scores (T, N) of layer m for words (T,)."""
        return self.embedding[words] @ self.centroids[m].T

    def learn(self, policy: nn.Module, passes: list[OldPass]) -> dict[str, float]:
        """Take Adam's steps on all tokens of a rollout; the student is only looked at.

        Returns:
            Metrics: the mean cross-entropy of the last round, nats, and the share of the student's top-K slots that
            the word router's top-K holds.
        """
        seen = [_look(policy, self._adapter, old) for old in passes]
        counts = torch.zeros(len(self.seen))
        for part in seen:
            counts += torch.bincount(part.words.cpu(), minlength=len(self.seen))
        self.seen |= self._processes.sum(counts) > 0
        tokens = self._processes.sum_each({"tokens": sum(len(part.words) for part in seen)})["tokens"]
        loss = 0.0
        for _ in range(ROUNDS):
            loss = self._step(seen, tokens)
        sums = {
            "loss": loss,
            "hits": sum(map(self._hits, seen)),
            "slots": sum(part.experts.numel() for part in seen),
        }
        total = self._processes.sum_each(sums)
        return {
            "stable_moe/loss": total["loss"],
            "stable_moe/agreement": total["hits"] / total["slots"],
        }

    def _step(self, seen: list[_Seen], tokens: float) -> float:
        """Take one step over all tokens of all processes; return this one's share of the mean loss."""
        self._optimizer.zero_grad()
        total = 0.0
        for part in seen:
            for m in range(
                len(part.experts)
            ):  # a layer's scores at a time: all of them are as large as a trace
                loss = cross_entropy(self.scores(part.words, m), part.experts[m], part.weights[m])
                loss = loss / (tokens * len(part.experts))
                loss.backward()
                total += float(loss.detach())
        for parameter in (self.embedding, self.centroids):
            assert parameter.grad is not None
            parameter.grad = self._processes.sum(parameter.grad)
        self._optimizer.step()
        return total

    @torch.no_grad()
    def _hits(self, part: _Seen) -> float:
        found = 0
        for m, experts in enumerate(part.experts):
            chosen = self.scores(part.words, m).topk(experts.shape[-1]).indices
            found += int((chosen[:, :, None] == experts[:, None, :]).sum())
        return float(found)

    @torch.no_grad()
    def table(self) -> Tensor:
        """Return the top-K experts (words, L, K) of each word; NO_ROUTE for words that the first stage had not."""
        top_k = self._adapter.top_k
        found = torch.full(
            (len(self.seen), len(self.centroids), top_k),
            NO_ROUTE,
            dtype=route_dtype(self._adapter.num_experts),
        )
        words = self.seen.nonzero()[:, 0]
        for m in range(len(self.centroids)):
            chosen = self.scores(words.to(self.embedding.device), m).topk(top_k).indices
            found[words, m] = chosen.cpu().to(found.dtype)
        return found

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that `restore` takes."""
        found = {
            "word.seen": self.seen.float(),
            "word.embedding": self.embedding,
            "word.centroids": self.centroids,
        }
        for index, parameter in enumerate((self.embedding, self.centroids)):
            for name, value in self._optimizer.state.get(parameter, {}).items():
                found[f"word.{name}.{index}"] = torch.as_tensor(value, dtype=torch.float32).reshape(-1)
        return {name: tensor.detach().cpu() for name, tensor in found.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on where a checkpoint was written."""
        self.seen = tensors["word.seen"] > 0
        for index, parameter in enumerate((self.embedding, self.centroids)):
            parameter.copy_(tensors["word.embedding" if index == 0 else "word.centroids"])
            if f"word.step.{index}" in tensors:
                self._optimizer.state[parameter] = {
                    "step": tensors[f"word.step.{index}"].reshape(()),
                    **{
                        name: tensors[f"word.{name}.{index}"].view_as(parameter).to(parameter.device)
                        for name in ("exp_avg", "exp_avg_sq")
                    },
                }


def cross_entropy(scores: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    """Return the cross-entropy, summed over tokens, of softmax(scores) (T, N) to weights (T, K) at experts (T, K)."""
    logprobs = torch.log_softmax(scores, dim=-1)
    return -(weights * logprobs.gather(1, experts)).sum()


@torch.no_grad()
def _look(policy: nn.Module, adapter: MoEAdapter, old: OldPass) -> _Seen:
    """Run a micro-batch once more and keep its routes, prompts' tokens included."""
    batch, layers = old.batch, adapter.layers
    real = batch.attention_mask.flatten().bool()
    experts: list[Tensor] = []
    weights: list[Tensor] = []

    def see(m: int, logits: Tensor, indices: Tensor) -> None:
        chosen = layers[m].rule.probs(logits[real]).gather(1, indices[real])
        experts.append(indices[real])
        weights.append(chosen / chosen.sum(-1, keepdim=True))

    with adapter.observe(see):
        policy(batch.input_ids, batch.attention_mask, batch.select, _no_output)
    return _Seen(batch.input_ids.flatten()[real], torch.stack(experts), torch.stack(weights))


def _no_output(hidden: Tensor, head: Head) -> Tensor:
    return hidden.new_zeros(())


def unrouted_share(adapter: MoEAdapter, passes: list[OldPass], processes: Processes) -> dict[str, float]:
    """Return, for a student that routes by words, the share of response tokens whose word has no routes."""
    words = adapter.words
    if words is None:
        return {}
    without = (words.table[:, 0, 0] == NO_ROUTE).cpu()
    ids = [old.batch.input_ids[old.batch.select].cpu() for old in passes]
    sums = processes.sum_each(
        {"without": sum(float(without[part].sum()) for part in ids), "tokens": sum(map(len, ids))}
    )
    return {"stable_moe/unrouted": sums["without"] / sums["tokens"]}
