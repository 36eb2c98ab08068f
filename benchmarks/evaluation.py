"""Speed of `padd eval` beside a plain loop of `generate` and beside lm-evaluation-harness, and whether texts agree.

    python benchmarks/evaluation.py --model runs/real-pair/teacher --data FOLDER [--json]
    python benchmarks/evaluation.py --quick [--json]

The work: greedy responses to --gsm8k problems of GSM8K and --math500 of MATH500 (FOLDER holds gsm8k_test.jsonl and
math500.jsonl), in fp32, at most --max-new-tokens tokens each; with --quick to 32 problems of the toy by its teacher.
The plain loop asks one prompt at a time. `padd` is all of `padd eval` from the first prompt to the last response on
disk. lm-evaluation-harness (pip install lm-eval; left out where it is not there) gets the same prompts, and of several
batch sizes the best counts. The contenders take turns, and of --rounds each one's best counts; processor time is given
too, since other work on the machine changes it less. Where two texts part, the gap between the two best logits at that
token is given: batches are padded, and sums of floats depend on that.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from padd_artifacts.writer import Output
from padd_stages.evaluate import stage as evaluate
from padd_stages.evaluate.options import EvaluateInputs, EvaluateOptions
from padd_stages.lib.data.prompts import prompt_text
from padd_stages.lib.models.loading import LanguageModel, load_model, quiet_transformers
from padd_stages.lib.options.shared import DEFAULT_SYSTEM
from padd_stages.toy.unpack import unpack

QUICK_PROBLEMS, QUICK_TOKENS, QUICK_ROUNDS = 32, 64, 3
HARNESS_BATCHES = (16, 32, 64, 128)
# Logits that far apart are a tie: fp32 keeps 7 digits, and logits are sums of hundreds of products, about 20 in size.
TIE = 1e-3


@dataclass(frozen=True)
class Work:
    """What every contender does."""

    model: str
    problems: Path
    system: str
    max_new_tokens: int

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The problems."""
        return [json.loads(line) for line in self.problems.read_text().splitlines()]


class Time(NamedTuple):
    """What a clock shows, or what a run took."""

    wall: float
    processor: float

    @staticmethod
    def now() -> "Time":
        """Of this process, all its threads."""
        return Time(time.perf_counter(), time.process_time())

    def since(self, start: "Time") -> "Time":
        """From then to this."""
        return Time(self.wall - start.wall, self.processor - start.processor)

    def least(self, other: "Time") -> "Time":
        """Each clock's own best."""
        return Time(min(self.wall, other.wall), min(self.processor, other.processor))


@dataclass
class Stopwatch:
    """A reporter that times the phase in which responses come."""

    started: Time | None = None
    took: Time | None = None

    def phase(self, name: str, total: int | None = None) -> None:
        """Only ``responses`` counts."""
        if self.started is not None:
            self.took, self.started = Time.now().since(self.started), None
        if name == "responses":
            self.started = Time.now()

    def advance(self, n: int = 1, line: str = "") -> None:
        """Nothing to show."""

    def note(self, text: str) -> None:
        """Nothing to show."""

    def warn(self, text: str) -> None:
        """On stderr."""
        print(text, file=sys.stderr)


Run = tuple[Time, list[str]]  # texts in the problems' order


def run_padd(work: Work) -> Run:
    """`padd eval` as it is."""
    watch = Stopwatch()
    options = EvaluateOptions(max_new_tokens=work.max_new_tokens, system=work.system, dtype="float32")
    inputs = EvaluateInputs(model=work.model, problems=str(work.problems))
    with tempfile.TemporaryDirectory() as folder:
        artifact = evaluate.run(inputs, options, Output(Path(folder) / "eval"), watch)
        assert watch.took is not None
        return watch.took, [row["response"] for row in artifact.jsonl("responses.jsonl")]


def run_plain(work: Work, model: LanguageModel) -> Run:
    """One prompt after the other."""
    started = Time.now()
    texts = []
    for row in work.rows:
        prompt, ids = plain_ids(work, model, row["problem"])
        texts.append(model.tokenizer.decode(ids[prompt:], skip_special_tokens=True))
    return Time.now().since(started), texts


def plain_ids(work: Work, model: LanguageModel, problem: str) -> tuple[int, torch.Tensor]:
    """The prompt's length, and prompt and response as token ids (T,)."""
    text = prompt_text(model.tokenizer, problem, system=work.system)
    inputs = model.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        output = model.model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            do_sample=False,
            max_new_tokens=work.max_new_tokens,
            eos_token_id=model.eos_ids,
            pad_token_id=model.pad_id,
        )
    return inputs.input_ids.shape[1], output[0]


def run_harness(work: Work, model: LanguageModel, batch_size: int) -> Run:
    """lm-evaluation-harness on the same prompts."""
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    harness = HFLM(
        pretrained=model.model,
        tokenizer=model.tokenizer,
        backend="causal",
        batch_size=batch_size,
        add_bos_token=False,
    )
    generation = {"until": [], "max_gen_toks": work.max_new_tokens, "do_sample": False}
    requests = [
        Instance(
            request_type="generate_until",
            doc={},
            arguments=(prompt_text(model.tokenizer, row["problem"], system=work.system), generation),
            idx=index,
        )
        for index, row in enumerate(work.rows)
    ]
    started = Time.now()
    texts = harness.generate_until(requests, disable_tqdm=True)
    return Time.now().since(started), texts


@torch.no_grad()
def parting(work: Work, model: LanguageModel, problem: str, text: str) -> dict[str, float]:
    """Where a text leaves the plain loop's, in tokens, and the gap between the two best logits there."""
    prompt, ids = plain_ids(work, model, problem)
    token = prompt
    while token < len(ids) and text.startswith(
        model.tokenizer.decode(ids[prompt : token + 1], skip_special_tokens=True)
    ):
        token += 1
    best = model.model(input_ids=ids[None, :token]).logits[0, -1].topk(2).values
    return {"token": token - prompt, "logit_gap": float(best[0] - best[1])}


def measure(work: Work, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """All contenders in turn."""
    model, rows = load_model(work.model, dtype="float32", moe=False), work.rows
    contenders: dict[str, Callable[[], Run]] = {
        "padd": lambda: run_padd(work),
        "plain loop": lambda: run_plain(work, model),
    }
    if importlib.util.find_spec("lm_eval") is not None:
        for size in [size for size in HARNESS_BATCHES if size < 2 * len(rows)]:  # beyond, all is one batch
            contenders[f"lm-eval, batch {size}"] = lambda size=size: run_harness(work, model, size)
    times: dict[str, Time] = {}
    texts: dict[str, list[str]] = {}
    for _ in range(rounds):
        for name, run in contenders.items():
            took, texts[name] = run()
            times[name] = took.least(times.get(name, took))
            say(f"{name}: {took.wall:.2f} s (processor {took.processor:.2f} s)")
    tokens = sum(len(ids) for ids in model.tokenizer(texts["padd"])["input_ids"])
    for name, took in times.items():
        same = sum(a == b for a, b in zip(texts[name], texts["plain loop"], strict=True))
        say(
            f"{name:20} {took.wall:7.2f} s {tokens / took.wall:7.0f} tokens/s (processor {took.processor:7.2f} s); "
            f"{same} of {len(rows)} texts as the plain loop's"
        )
    parted = [
        {"id": row["id"], **parting(work, model, row["problem"], mine)}
        for row, mine, plain in zip(rows, texts["padd"], texts["plain loop"], strict=True)
        if mine != plain
    ]
    return ratios(times) | {
        "same_greedy_texts": all(each["logit_gap"] < TIE for each in parted),
        "parted": parted,
        "problems": len(rows),
        "tokens": tokens,
        "seconds": {name: round(took.wall, 2) for name, took in times.items()},
        "processor_seconds": {name: round(took.processor, 2) for name, took in times.items()},
    }


def ratios(times: dict[str, Time]) -> dict[str, float | None]:
    """How much faster padd is, by the wall's clock and by the processor's."""
    padd, plain = times["padd"], times["plain loop"]
    harness = [took for name, took in times.items() if name.startswith("lm-eval")]
    return {
        "speed_vs_plain_loop": round(plain.wall / padd.wall, 2),
        "speed_vs_lm_eval": round(min(t.wall for t in harness) / padd.wall, 2) if harness else None,
        "processor_vs_plain_loop": round(plain.processor / padd.processor, 2),
        "processor_vs_lm_eval": round(min(t.processor for t in harness) / padd.processor, 2)
        if harness
        else None,
    }


def quick_work(folder: Path) -> Work:
    """The toy."""
    problems = folder / "work.jsonl"
    unpack(folder, problems=QUICK_PROBLEMS * 7)
    problems.write_text("\n".join((folder / "problems.jsonl").read_text().splitlines()[:QUICK_PROBLEMS]))
    return Work(str(folder / "teacher"), problems, "", QUICK_TOKENS)


def real_work(folder: Path, given: argparse.Namespace) -> Work:
    """Real problems and a real model."""
    problems = folder / "work.jsonl"
    counts = {"gsm8k_test.jsonl": given.gsm8k, "math500.jsonl": given.math500}
    lines = [
        line
        for name, count in counts.items()
        for line in (given.data / name).read_text().splitlines()[:count]
    ]
    problems.write_text("\n".join(lines))
    return Work(str(given.model), problems, DEFAULT_SYSTEM, given.max_new_tokens)


def main() -> None:
    """Measure, print a table; with ``--json`` one object on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="folder of a real model")
    parser.add_argument("--data", type=Path, help="folder of gsm8k_test.jsonl and math500.jsonl")
    parser.add_argument("--gsm8k", type=int, default=100, help="problems of GSM8K")
    parser.add_argument("--math500", type=int, default=20, help="problems of MATH500")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="the toy, under a minute")
    parser.add_argument("--json", action="store_true", help="one object on the last line of stdout")
    given = parser.parse_args()
    if not given.quick and (given.model is None or given.data is None):
        parser.error("--model and --data are needed, or --quick")
    torch.set_num_threads(given.threads)
    quiet_transformers()
    with tempfile.TemporaryDirectory() as folder:
        work = quick_work(Path(folder)) if given.quick else real_work(Path(folder), given)
        rounds = QUICK_ROUNDS if given.quick else given.rounds
        found = measure(work, rounds, lambda line: print(line, file=sys.stderr))
    print(json.dumps(found) if given.json else json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
