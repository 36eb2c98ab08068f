"""Tables of a page, as titles, columns and cells."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from padd_artifacts.artifact import Artifact
from padd_stages.lib.plots.table import MISSING, Cell, Table, cell, duration, number
from padd_stages.report.routing import OWN, Routing, mean_and_half
from padd_stages.report.runs import RunArtifacts
from padd_stages.report.training import Training

LAST_ROLLOUTS = 10
PATHS_SHOWN = 5
LAYERS_SHOWN = 8  # a longer path is no row of a table
SHORT_DIGEST = 8
TRAINING_NUMBERS = {
    "reward": ("reward", ".3f"),
    "kd/kl": ("distillation KL", ".3f"),
    "policy_kl": ("policy KL", ".5f"),
    "entropy": ("entropy", ".3f"),
    "drift/suppressed_fraction": ("suppressed, %", "%"),
    "load/max_vio": ("MaxVio", ".3f"),
    "bias/spread": ("bias spread", ".3f"),
}
SPECIALISATION_NUMBERS = {
    ("nmi",): ("NMI", ".4f"),
    ("nmi_shuffled_problems", "high"): ("of shuffled labels", ".4f"),
    ("esi",): ("ESI", ".4f"),
    ("token_entropy",): ("token entropy", ".3f"),
    ("cluster_agreement", "correlation"): ("agreement with clusters", ".3f"),
    ("cluster_agreement", "random_pairing", "high"): ("of random pairs", ".3f"),
}
LOAD_NUMBERS = {
    ("load_entropy",): ("load entropy", ".3f"),
    ("gini",): ("Gini", ".3f"),
    ("max_vio",): ("MaxVio", ".3f"),
    ("dead_experts",): ("dead", ".0f"),
    ("paths", "distinct"): ("paths", ",.0f"),
    ("paths", "share_of_top_10"): ("in the 10 most used, %", "%"),
    ("paths", "entropy"): ("path entropy", ".3f"),
}
SHIFT_NUMBERS = {
    ("mean",): ("Router-shift, mean", ".4f"),
    ("same_top_k",): ("same top-K, %", "%"),
    ("path_consistency",): ("same whole path, %", "%"),
    ("jaccard",): ("overlap of top-K sets (Jaccard)", ".3f"),
}


def run_table(artifacts: RunArtifacts, training: Training) -> Table:
    """Make a table of the trainings: size options and time."""
    rows = []
    for name in training.metrics:
        students = [run.student for run in artifacts.methods[name] if run.student is not None]
        options = students[0].manifest.options
        seconds = [student.manifest.provenance.wall_seconds for student in students]
        speed = [row["tokens_per_second"] for rows_ in training.timings.get(name, []) for row in rows_]
        rows.append(
            [
                Cell(name),
                Cell(", ".join(str(student.manifest.seed) for student in students)),
                Cell(str(options.get("steps", MISSING))),
                Cell(
                    f"{options['prompts_per_step']} x {options['num_generations']}"
                    if "num_generations" in options
                    else MISSING
                ),
                Cell(f"{options['learning_rate']:g}" if "learning_rate" in options else MISSING),
                Cell(
                    ", ".join(dict.fromkeys(str(s.manifest.summary.get("stage3", MISSING)) for s in students))
                ),
                Cell(duration(fmean(seconds)), order=fmean(seconds)),
                Cell(f"{np.median(speed):,.0f}" if speed else MISSING),
                Cell(f"{max(s.manifest.provenance.peak_memory_mb for s in students):,.0f}"),
            ]
        )
    columns = [
        "method",
        "seeds",
        "rollouts",
        "responses a rollout",
        "learning rate",
        "Stage III",
        "time a run",
        "tokens/s",
        "memory, MB",
    ]
    return Table("What was trained", columns, rows)


def training_table(training: Training) -> Table:
    """Make a table of means over the last rollouts, and Router-shift where it was measured."""
    names = {
        m: head
        for m, head in TRAINING_NUMBERS.items()
        if any(training.mean_over_last(n, m, LAST_ROLLOUTS) for n in training.metrics)
    }
    last = training.shift_distributions
    measured = any(last.values())
    rows = []
    for name in training.metrics:
        cells = [
            _estimate(training.mean_over_last(name, m, LAST_ROLLOUTS), form) for m, (_, form) in names.items()
        ]
        ecdf = last[name]
        marks = (
            [Cell(f"{ecdf.marked[s]:.4f}" if ecdf and s in ecdf.marked else MISSING) for s in (0.5, 0.95)]
            if measured
            else []
        )
        rows.append([Cell(name), *cells, *marks])
    heads = ["Router-shift, median", "Router-shift, 95 %"] if measured else []
    return Table(
        f"Mean over the last {LAST_ROLLOUTS} rollouts",
        ["method", *(head for head, _ in names.values()), *heads],
        rows,
    )


def specialisation_table(routing: Routing) -> Table:
    """Make a table of NMI, ESI, routing entropy and agreement with the clusters, of every model."""
    two_measures = len(routing.agreement_measures) > 1
    numbers = {
        keys: form
        for keys, form in SPECIALISATION_NUMBERS.items()
        if not (keys[0] == "cluster_agreement" and two_measures)
    }
    return _model_table("Specialisation on the analysed problems", routing, numbers)


def load_table(routing: Routing) -> Table:
    """Make a table of load and paths of every model."""
    return _model_table("Load and paths on the same problems", routing, LOAD_NUMBERS)


def _model_table(title: str, routing: Routing, numbers: Mapping[tuple[str, ...], tuple[str, str]]) -> Table:
    models = routing.models()
    columns = {
        keys: form for keys, form in numbers.items() if any(mean_and_half(m, *keys) for m in models.values())
    }
    rows = [
        [Cell(name), *(_estimate(mean_and_half(m, *keys), form) for keys, (_, form) in columns.items())]
        for name, m in models.items()
    ]
    return Table(title, ["model", *(head for head, _ in columns.values())], rows)


def shift_table(routing: Routing) -> Table | None:
    """Make a table of the change of routing between Stage I and the student, on the same tokens."""
    shifts = routing.shifts()
    if not shifts:
        return None
    columns = {
        keys: form
        for keys, form in SHIFT_NUMBERS.items()
        if any(mean_and_half(s, *keys) for s in shifts.values())
    }
    rows = [
        [Cell(name), *(_estimate(mean_and_half(s, *keys), form) for keys, (_, form) in columns.items())]
        for name, s in shifts.items()
    ]
    return Table(
        "Routing before and after training, same tokens",
        ["method", *(head for head, _ in columns.values())],
        rows,
    )


def path_table(routing: Routing) -> Table | None:
    """Make a table of the featured student's most used paths, layer by layer."""
    if routing.featured is None:
        return None
    name, featured = routing.featured
    top = featured.report["models"][OWN].get("paths", {}).get("top", [])[:PATHS_SHOWN]
    rows = [
        [Cell(" → ".join(", ".join(map(str, layer)) for layer in row["path"])), cell(row["share"], "%")]
        for row in top
        if len(row["path"]) <= LAYERS_SHOWN
    ]
    return (
        Table(f"Most used paths of {name}", ["experts, layer by layer", "tokens, %"], rows) if rows else None
    )


def classifier_table(routing: Routing) -> Table | None:
    """Make a confusion table of the data's own labels and the keyword rules; None without labels."""
    if routing.classifier is None or not routing.classifier["labelled"]:
        return None
    confusion = routing.classifier["confusion"]
    named = [
        (name, row) for name, row in zip(confusion["labels"], confusion["counts"], strict=True) if sum(row)
    ]
    rows = [[Cell(name), *(Cell(f"{count:,}") for count in row)] for name, row in named]
    return Table(
        "Problems by their own label (rows) and by the keyword rules", ["label", *confusion["labels"]], rows
    )


def artifact_table(artifacts: Sequence[tuple[str, Artifact]]) -> Table:
    """Make a table of the artifacts' provenance."""
    rows = []
    for role, artifact in artifacts:
        manifest = artifact.manifest
        provenance = manifest.provenance
        commit = (provenance.commit or MISSING)[:SHORT_DIGEST] + (
            "" if provenance.tree_clean is not False else " +"
        )
        rows.append(
            [
                Cell(role),
                Cell(manifest.kind),
                Cell(manifest.digest[:SHORT_DIGEST]),
                Cell(str(manifest.seed)),
                Cell(provenance.created.replace("T", " ")[:16]),
                Cell(duration(provenance.wall_seconds), order=provenance.wall_seconds),
                Cell(commit),
                Cell(short_path(artifact.path)),
            ]
        )
    return Table(
        "Artifacts", ["what", "kind", "digest", "seed", "made, UTC", "time", "commit", "folder"], rows
    )


def short_path(path: Path, parts: int = 3) -> str:
    """Return the last parts of a path, enough to find it."""
    return "/".join(path.parts[-parts:]) if len(path.parts) > parts else str(path)


def _estimate(value: tuple[float, float] | None, form: str) -> Cell:
    if value is None:
        return Cell(MISSING)
    mean, half = value
    return Cell(number(mean, form), f"±\u202f{number(half, form)}" if np.isfinite(half) else "")
