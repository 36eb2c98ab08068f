"""What Stage I does to the toy student, row by row, against the same warmup without Stage I.

    python benchmarks/stage1.py [--quick] [--json] [--out FOLDER] [--rows NAME ...] [--seeds N] [--jobs N]

Each row is one recipe of `cluster` and `warmup`; all have the toy preset's options apart from what the row names, the
same warmup tokens, and the same seeds. Measured on D_D, under the student's own top-K routing: greedy and sampled
accuracy, NMI of expert and subdomain, routing entropy; and the loss on the held-out rows of D_B. Differences are to the
row `control` (the student's own router, beta 0), paired by problem and by seed; the interval is the 95 % bootstrap over
problems and seeds drawn anew together. Finished runs in FOLDER are not run again.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from padd_artifacts.artifact import open_artifact
from padd_artifacts.writer import Output
from padd_cli.flags.config import load_config
from padd_cli.flags.resolve import Given, InputsT, OptionsT, resolve
from padd_stages.analyze_experts.routing_pass import sum_routing
from padd_stages.analyze_experts.texts import analysis_texts, read_split
from padd_stages.cluster import stage as cluster
from padd_stages.cluster.options import ClusterInputs, ClusterOptions
from padd_stages.evaluate import stage as evaluate
from padd_stages.evaluate.options import EvaluateInputs, EvaluateOptions
from padd_stages.lib.data.subdomains import SUBDOMAINS
from padd_stages.lib.measures.intervals import percentile_interval
from padd_stages.lib.measures.specialisation import joint_counts, nmi
from padd_stages.lib.models.loading import load_model
from padd_stages.split_data import stage as split_data
from padd_stages.split_data.options import SplitInputs, SplitOptions
from padd_stages.toy.unpack import unpack
from padd_stages.warmup import stage as warmup
from padd_stages.warmup.options import WarmupInputs, WarmupOptions

DRAWS = 2000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """What a row changes; ``warm`` is False for the untouched student."""

    cluster: dict[str, Any] = field(default_factory=dict)
    warmup: dict[str, Any] = field(default_factory=dict)
    warm: bool = True


# One factor at a time around the first row, which says all that it depends on, so that new defaults change no row.
BASE_CLUSTER = {"features": "coactivation", "router_map": "ridge", "match": "hungarian", "router_blend": 0.25}
BASE_WARMUP = {"warmup_routing": "topk", "init_target": "dataset", "beta": 0.1}
KEEP = {"router_map": "keep"}
LITERAL = {"features": "weights", "match": "index", "router_blend": 1.0, "normalize": False}
ROWS = {
    "screen": Row(),
    "none": Row(warm=False),
    "control": Row(KEEP, {"beta": 0.0}),
    "random clusters": Row({"assign": "random"}),
    "weights": Row({"features": "weights"}),
    "map random-projection": Row({"router_map": "random-projection"}),
    "map truncate": Row({"router_map": "truncate"}),
    "map keep": Row(KEEP),
    "match index": Row({"match": "index"}),
    "omega 0.1": Row({"router_blend": 0.1}),
    "omega 0.5": Row({"router_blend": 0.5}),
    "omega 1": Row({"router_blend": 1.0}),
    "routing anneal": Row(warmup={"warmup_routing": "anneal"}),
    "routing uniform": Row(warmup={"warmup_routing": "uniform"}),
    "token": Row(warmup={"init_target": "token"}),
    "token, beta 1": Row(warmup={"init_target": "token", "beta": 1.0}),
    "beta 0": Row(warmup={"beta": 0.0}),
    "beta 1": Row(warmup={"beta": 1.0}),
    "literal": Row(LITERAL, {"warmup_routing": "uniform"}),
    # What did best, crossed.
    "random clusters, omega 0.1": Row({"assign": "random", "router_blend": 0.1}),
    "weights, omega 0.1": Row({"features": "weights", "router_blend": 0.1}),
    "weights, omega 0.5": Row({"features": "weights", "router_blend": 0.5}),
    "omega 0.1, token, beta 1": Row({"router_blend": 0.1}, {"init_target": "token", "beta": 1.0}),
    "omega 0.35": Row({"router_blend": 0.35}),
}


@dataclass(frozen=True)
class Measured:
    """One run. greedy and sampled (P,) per problem; slots (P, L, N); scalars by name."""

    greedy: Floats
    sampled: Floats
    slots: NDArray[np.int64]
    scalars: dict[str, float]

    def save(self, file: Path) -> None:
        """By rename, so that a file that is there is whole."""
        temporary = file.with_suffix(".tmp.npz")
        np.savez_compressed(
            temporary,
            greedy=self.greedy,
            sampled=self.sampled,
            slots=self.slots,
            scalars=json.dumps(self.scalars),
        )
        os.replace(temporary, file)

    @classmethod
    def load(cls, file: Path) -> "Measured":
        """What :meth:`save` wrote."""
        with np.load(file) as found:
            return cls(found["greedy"], found["sampled"], found["slots"], json.loads(str(found["scalars"])))


@dataclass(frozen=True)
class Bench:
    """Where things are, and how much of them."""

    out: Path
    samples: int
    steps: int | None

    @property
    def split(self) -> Path:
        """The split artifact."""
        return self.out / "split"

    def options(
        self, inputs: type[InputsT], options: type[OptionsT], section: str, **changes: Any
    ) -> OptionsT:
        """The toy preset's, and what a row changes."""
        needed = {name: "-" for name, field in inputs.model_fields.items() if field.is_required()}
        given = Given(needed | changes, environ={}, config=load_config("toy"), section=section)
        return resolve(inputs, options, given).options

    def prepare(self) -> None:
        """Unpack the toy and split its problems."""
        if not self.split.exists():
            unpack(self.out / "toy")
            problems = str(self.out / "toy" / "problems.jsonl")
            options = self.options(SplitInputs, SplitOptions, "split-data")
            split_data.run(SplitInputs(problems=problems), options, Output(self.split))

    def run(self, name: str, seed: int) -> None:
        """One row with one seed, unless it is there."""
        torch.set_num_threads(1)
        file = self.out / "results" / f"{name}-{seed}.npz".replace(" ", "-")
        file.parent.mkdir(exist_ok=True)
        if not file.exists():
            student, scalars = self._student(ROWS[name], seed)
            self._measure(student, scalars, seed).save(file)

    def result(self, name: str, seed: int) -> Measured:
        """A finished run."""
        return Measured.load(self.out / "results" / f"{name}-{seed}.npz".replace(" ", "-"))

    def _student(self, row: Row, seed: int) -> tuple[Path, dict[str, float]]:
        teacher, student = str(self.out / "toy" / "teacher"), str(self.out / "toy" / "student")
        if not row.warm:
            return Path(student), {}
        recipe = BASE_CLUSTER | row.cluster | {"seed": seed}
        clusters = self.out / f"clusters-{_key(recipe)}"
        inputs = ClusterInputs(teacher=teacher, student=student, split=self.split)
        if not clusters.exists():
            options = self.options(ClusterInputs, ClusterOptions, "cluster", **recipe)
            cluster.run(inputs, options, Output(clusters, force=True))
        training = BASE_WARMUP | row.warmup | {"seed": seed}
        if self.steps is not None:
            training["steps"] = self.steps
        warmed = self.out / f"student-{_key(recipe | training)}"
        if not warmed.exists():
            pair = WarmupInputs(teacher=teacher, student=student, clusters=clusters, split=self.split)
            options = self.options(WarmupInputs, WarmupOptions, "warmup", **training)
            warmup.run(pair, options, Output(warmed, force=True))
        report = open_artifact(warmed, check=False).report
        losses = {"loss": report["after"]["topk"]["loss"], "loss_before": report["before"]["topk"]["loss"]}
        return warmed, losses | {
            f"{name}_{when}": report[when]["topk"][name]
            for name in ("expert_correlation", "cluster_alignment")
            for when in ("base", "after")
        }

    def _measure(self, student: Path, scalars: dict[str, float], seed: int) -> Measured:
        options = self.options(EvaluateInputs, EvaluateOptions, "eval", samples=self.samples, seed=seed)
        inputs = EvaluateInputs(model=str(student), problems=str(self.split))
        with tempfile.TemporaryDirectory() as folder:
            answers = evaluate.run(inputs, options, Output(Path(folder) / "eval")).jsonl("responses.jsonl")
        split = open_artifact(self.split, check=False)
        rows = split.jsonl("d.jsonl")
        right: dict[str, dict[str, list[float]]] = {"greedy": {}, "sampled": {}}
        for answer in answers:
            good = answer["correct"] and not answer["truncated"]
            right[answer["mode"]].setdefault(answer["id"], []).append(float(good))
        model = load_model(str(student), dtype="auto", device="cpu", moe=True)
        texts, _ = analysis_texts(
            model.tokenizer, read_split(split), system="", thinking=False, max_tokens=4096
        )
        assert model.adapter is not None
        sums, _ = sum_routing(
            model.model, model.adapter, texts, len(SUBDOMAINS), pad_id=model.pad_id, batch_tokens=8192
        )
        greedy, sampled = (
            np.array([np.mean(by_problem[row["id"]]) for row in rows]) for by_problem in right.values()
        )
        return Measured(greedy, sampled, sums.slots, scalars | {"entropy": float(sums.mean_entropy.mean())})


def _key(recipe: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def mean_nmi(slots: NDArray[np.int64], labels: NDArray[np.int64], weights: NDArray[np.int64]) -> float:
    """NMI, mean over layers, with problem p counted ``weights[p]`` times. slots (P, L, N)."""
    return float(nmi(joint_counts(slots * weights[:, None, None], labels, len(SUBDOMAINS))).mean())


def compare(
    bench: Bench, name: str, seeds: int, labels: NDArray[np.int64], control: str = "control"
) -> dict[str, Any]:
    """A row's means and its differences to the control with their intervals."""
    ours = [bench.result(name, seed) for seed in range(seeds)]
    others = [bench.result(control, seed) for seed in range(seeds)]
    everyone = np.ones(len(labels), np.int64)
    found: dict[str, Any] = {
        "greedy": float(np.mean([run.greedy for run in ours])),
        "sampled": float(np.mean([run.sampled for run in ours])),
        "nmi": float(np.mean([mean_nmi(run.slots, labels, everyone) for run in ours])),
        **{key: float(np.mean([run.scalars[key] for run in ours])) for key in ours[0].scalars},
    }
    draws: dict[str, list[float]] = {"greedy": [], "sampled": [], "nmi": []}
    generator = np.random.default_rng(0)
    for _ in range(DRAWS):
        weights = np.bincount(generator.integers(len(labels), size=len(labels)), minlength=len(labels))
        for measure in draws:
            differences = []
            for seed in generator.integers(seeds, size=seeds):
                a, b = ours[seed], others[seed]
                if measure == "nmi":
                    differences.append(
                        mean_nmi(a.slots, labels, weights) - mean_nmi(b.slots, labels, weights)
                    )
                else:
                    apart = getattr(a, measure) - getattr(b, measure)
                    differences.append(float(weights @ apart) / len(labels))
            draws[measure].append(float(np.mean(differences)))
    reference = {
        "greedy": np.mean([run.greedy for run in others]),
        "sampled": np.mean([run.sampled for run in others]),
        "nmi": np.mean([mean_nmi(run.slots, labels, everyone) for run in others]),
    }
    for measure, values in draws.items():
        found[f"{measure}_difference"] = found[measure] - float(reference[measure])
        found[f"{measure}_interval"] = list(percentile_interval(values))
    return found


def show(found: dict[str, dict[str, Any]], console: Console) -> None:
    """One line a row; accuracies in percent, NMI times 1,000."""
    table = Table(
        "row", "greedy", "- control", "sampled", "- control", "NMI e-3", "- control", "entropy", "loss"
    )
    scales = {"greedy": 100.0, "sampled": 100.0, "nmi": 1000.0}
    for name, row in found.items():
        cells = []
        for measure, scale in scales.items():
            low, high = (scale * value for value in row[f"{measure}_interval"])
            cells += [
                f"{scale * row[measure]:.1f}",
                f"{scale * row[f'{measure}_difference']:+.1f} ({low:+.1f} to {high:+.1f})",
            ]
        loss = f"{row['loss']:.4f}" if "loss" in row else ""
        table.add_row(name, *cells, f"{row['entropy']:.3f}", loss)
    console.print(table)


def main() -> None:
    """Run what is missing, print the table; with ``--json`` it is on the last line too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="two rows, one seed, 3 steps: shows that it runs"
    )
    parser.add_argument("--json", action="store_true", help="one object on the last line of stdout")
    parser.add_argument("--out", type=Path, help="folder of the runs (default: a temporary one)")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), metavar="NAME", help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    arguments = parser.parse_args()
    names = ["control", "screen"] if arguments.quick else arguments.rows or list(ROWS)
    seeds = 1 if arguments.quick else arguments.seeds
    console = Console(file=sys.stderr, width=150)
    with tempfile.TemporaryDirectory() as temporary:
        out = (arguments.out or Path(temporary)).absolute()
        bench = Bench(out, samples=1 if arguments.quick else 4, steps=3 if arguments.quick else None)
        out.mkdir(parents=True, exist_ok=True)
        bench.prepare()
        work = [(name, seed) for seed in range(seeds) for name in dict.fromkeys(["control", *names])]
        Parallel(n_jobs=arguments.jobs, inner_max_num_threads=1, verbose=10)(
            delayed(bench.run)(name, seed) for name, seed in work
        )
        rows = open_artifact(bench.split, check=False).jsonl("d.jsonl")
        labels = np.array([SUBDOMAINS.index(row["subdomain"]) for row in rows])
        found = {name: compare(bench, name, seeds, labels) for name in names}
    show(found, console)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
