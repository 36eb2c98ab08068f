"""The inference server of a training run: gets the student's weights before each rollout, and is checked by a probe."""

import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.lib.data.sequences import TokenBatch, TokenSequence, collate, micro_batches
from padd_stages.lib.models.bias_folding import (
    RouterListener,
    fit_constants,
    folded_row,
    native_biases,
    watch_routers,
)
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.policy import Head, Policy, run_body, token_logprobs
from padd_stages.lib.models.saving import save_weights
from padd_stages.lib.runtime.optimization import sample_of
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.sharding import gather_state
from padd_stages.lib.sampling.responses import Request, Sampling
from padd_stages.lib.sampling.server import EngineError
from padd_stages.lib.sampling.vllm import VllmEngine
from padd_stages.train.options import TrainOptions
from padd_stages.train.rollout import Prompt

PROBE_PROMPTS, PROBE_TOKENS = 8, 16  # chosen: of each process, a second or two
FOLD_TEXTS, FOLD_TOKENS = (
    64,
    512,
)  # chosen: 15,000 tokens or so; a fold has as many free numbers as the model is wide
WEIGHTS = "engine-weights"
FOLD_PENALTY = 1e-4  # as of `padd export`

Result = TypeVar("Result")


def start_engine(
    policy: Policy,
    student: LanguageModel,
    prompts: list[Prompt],
    options: TrainOptions,
    processes: Processes,
    output: Output,
    writer: ArtifactWriter,
) -> "TrainEngine | None":
    """Return the server that the options name; None where the student samples itself.

    Raises:
        EngineError: it does not answer.
    """
    if options.engine_url is None:
        return None
    if options.engine_weights is None:
        folder = writer.folder / WEIGHTS
        writer.scratch.add(WEIGHTS)
    else:
        folder = options.engine_weights / f"{output.out.name}-{WEIGHTS}"
    return TrainEngine(policy, student, prompts, options, processes, folder)


class TrainEngine:
    """A vLLM server that samples a run's rollouts.

    Args:
        prompts: all of the run's; the first are the probe's.
        folder: where the weights are written for the server, which must see it under the same path.
    """

    def __init__(
        self,
        policy: Policy,
        student: LanguageModel,
        prompts: list[Prompt],
        options: TrainOptions,
        processes: Processes,
        folder: Path,
    ) -> None:
        self._policy, self._student, self._options, self._processes = policy, student, options, processes
        self._prompts, self._folder = prompts, folder
        assert options.engine_url is not None
        self.server = self.agreed(partial(VllmEngine, options.engine_url, timeout=options.engine_timeout))
        self._run = processes.gather(uuid.uuid4().hex[:8])[0]
        self._written: list[Tensor] | None = None  # entries of the weights that the server has

    def agreed(self, work: Callable[[], Result]) -> Result:
        """Do work that is no collective, in all processes; if it fails in one, fail in all.

        Raises:
            EngineError: of the first process that has one.
        """
        result, error = None, None
        try:
            result = work()
        except EngineError as raised:
            error = str(raised)
        for found in self._processes.gather(error):
            if found is not None:
                raise EngineError(found)
        return result  # type: ignore[return-value]

    def refresh(self, step: int) -> dict[str, float]:
        """Give the server the current student, and compare log-probabilities. A collective.

        Returns:
            Metrics: the mean difference of log-probabilities over the probe's tokens, nats.

        Raises:
            EngineError: the server fails, or is another policy than the student.
        """
        version = f"{self._run}-{step}"
        written, changed = self._write(version)
        main = self._processes.is_main

        def load() -> None:
            if main:
                if self._options.engine_sleep:
                    self.server.wake()
                self.server.load(written, version, changed=changed)

        self.agreed(load)
        self.server.version = self._processes.gather(self.server.version)[0]
        if main:
            for old in self._folder.iterdir():
                if old != written:
                    shutil.rmtree(old)
        difference = self._probe(step)
        if difference > self._options.engine_tolerance:
            raise EngineError(
                f"the log-probabilities of the engine at {self._options.engine_url} differ from the student's by "
                f"{difference:.3f} nats a token (--engine-tolerance {self._options.engine_tolerance:g}), so it samples "
                "another policy; check that it reads the weights it is sent, computes in the student's precision and "
                "was started with --logprobs-mode processed_logprobs --generation-config vllm."
            )
        return {"engine/probe": difference}

    def close(self) -> None:
        """Leave the server awake, and remove the weights that were written for it."""
        if self._processes.is_main:
            if self._options.engine_sleep:
                with suppress(EngineError):  # the run is done, whatever becomes of the server
                    self.server.wake()
            shutil.rmtree(self._folder, ignore_errors=True)

    def rest(self) -> None:
        """Let the server sleep until the next refresh, where --engine-sleep says so."""
        if self._options.engine_sleep:
            self.agreed(lambda: self.server.sleep() if self._processes.is_main else None)

    def _write(self, version: str) -> tuple[Path, bool]:
        """Write the student as a stock checkpoint, routers in fp32, in a folder of its own.

        Returns:
            The folder, and whether the weights differ from those that were written before; a skipped update's do not.
        """
        student, main = self._student, self._processes.is_main
        names = {id(tensor): name for name, tensor in student.model.state_dict(keep_vars=True).items()}
        adapter = student.adapter
        wide = {} if adapter is None else {names[id(p)]: torch.float32 for p in adapter.router_parameters()}
        state = gather_state(student.model, keep=main, dtypes=student.dtypes | wide)
        if adapter is not None and bool(adapter.bias.any()):
            places = native_biases(adapter)
            if places is None:
                constants = fit_constants(adapter, self._read_texts, FOLD_PENALTY)
                changes = [
                    (names[id(adapter.router_weight(m))], folded_row(bias, constant))
                    for m, (bias, constant) in enumerate(zip(adapter.bias, constants, strict=True))
                ]
            else:
                changes = [(names[id(place)], bias) for place, bias in zip(places, adapter.bias, strict=True)]
            for name, change in changes if main else ():
                state[name] = state[name] + change.to(
                    state[name]
                )  # the state may be the student's own tensors
        folder = self._folder / version
        if main:
            folder.mkdir(parents=True)
            save_weights(folder, student, state)
        before, self._written = self._written, [sample_of(tensor) for tensor in state.values()]
        pairs = zip(before or [], self._written, strict=before is not None)
        return folder, before is not None and not all(torch.equal(a, b) for a, b in pairs)

    @torch.no_grad()
    def _read_texts(self, see: RouterListener) -> None:
        """Run prompts with their worked solutions, the same in every process; `see` gets each layer's tokens."""
        student, adapter = self._student, self._student.adapter
        assert adapter is not None
        texts = []
        for prompt in self._prompts[:FOLD_TEXTS]:
            solution = student.tokenizer(prompt.row.get("solution") or "", add_special_tokens=False)[
                "input_ids"
            ]
            texts.append(TokenSequence(prompt.student_ids, tuple(solution[:FOLD_TOKENS])))
        for members in micro_batches([len(text) for text in texts], self._options.micro_batch_tokens):
            batch = collate([texts[i] for i in members], student.pad_id, self._processes.device)
            real = batch.attention_mask.flatten().bool()

            def of_text(m: int, hidden: Tensor, indices: Tensor, real: Tensor = real) -> None:
                see(m, hidden[real], indices[real])

            with watch_routers(adapter, of_text):
                self._policy.run(partial(run_body, student.model, batch.input_ids, batch.attention_mask))

    @torch.no_grad()
    def _probe(self, step: int) -> float:
        """Return the mean difference of log-probabilities, server against student, over a few sampled tokens."""
        options, student, processes = self._options, self._student, self._processes
        first = processes.rank * PROBE_PROMPTS
        prompts = [self._prompts[(first + i) % len(self._prompts)].student_ids for i in range(PROBE_PROMPTS)]
        requests = [Request(p, (options.seed, step, "probe", first + i)) for i, p in enumerate(prompts)]
        responses = self.agreed(
            lambda: self.server.sample(
                requests,
                Sampling(min(PROBE_TOKENS, options.max_completion_length), options.temperature),
                eos_ids=student.eos_ids,
                with_logprobs=True,
            )
        )
        batch = collate(
            [TokenSequence(p, r.token_ids) for p, r in zip(prompts, responses, strict=True)],
            student.pad_id,
            processes.device,
        )
        sampled = torch.tensor([value for response in responses for value in response.logprobs])
        own = _logprobs(self._policy, batch, options.temperature).float().cpu()
        total = processes.sum_each({"off": float((own - sampled).abs().sum()), "tokens": len(own)})
        return total["off"] / total["tokens"]


def _logprobs(policy: Policy, batch: TokenBatch, temperature: float) -> Tensor:
    def compute(hidden: Tensor, head: Head) -> Tensor:
        return token_logprobs(hidden, head, batch, temperature)[0]

    return policy(batch.input_ids, batch.attention_mask, batch.select, compute)
