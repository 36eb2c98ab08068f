"""Sentences of the page: its title, the result, the facts about its runs, and how to read figures."""

from pathlib import Path
from typing import Any

from padd_artifacts.manifest import Parent
from padd_stages.compare.methods import AVERAGE, Estimate
from padd_stages.lib.plots.table import duration
from padd_stages.report.accuracies import STATE_NAMES, Results
from padd_stages.report.html import Fact
from padd_stages.report.page_data import PageData, provenance
from padd_stages.report.routing import OWN, Routing
from padd_stages.report.runs import RunArtifacts
from padd_stages.report.tables import short_path
from padd_stages.report.training import Training

SUBDOMAIN_SOURCES = {
    "labels": "the problems' own labels",
    "keywords": "keywords in the problems",
    "mixed": "the problems' own labels, and from keywords where they have none",
}
SUBSETS = {"a": "clusters", "b": "warmup", "c": "training", "d": "held out"}


def title(data: PageData) -> str:
    """Return the methods' names, or of a single one the student and its teacher."""
    names, models = data.methods, data.artifacts.models
    if len(names) == 1 and models["teacher"] and models["base"]:
        return f"{_model_words(models['base'][0])}, distilled from {_model_words(models['teacher'][0])}"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def lead(data: PageData) -> str:
    """Summarise the results, a sentence a mode: the last method, its reference, and the best student."""
    sentences = []
    for mode, comparison in data.results.comparisons.items():
        students = [
            row
            for row in comparison.rows
            if not row.published and row.accuracy and row.name != STATE_NAMES["teacher"]
        ]
        last = next((row for row in reversed(students) if row.name in data.methods), None)
        if last is None:
            continue
        column = next(name for name in (AVERAGE, *comparison.columns) if name in last.accuracy)
        where = "" if column == AVERAGE or len(comparison.columns) == 1 else f" on {column}"
        said = f"{mode.capitalize()} accuracy of {last.name}{where}: {_percent(last.accuracy[column])}"
        if column in last.difference:
            said += f", {_points(last.difference[column])} beside {comparison.against}"
        best = max(
            (row for row in students if column in row.accuracy),
            key=lambda row: row.accuracy[column].value,
        )
        if best is not last and best.name != comparison.against:
            said += f"; the highest of all is {best.name}, {_percent(best.accuracy[column])}"
        sentences.append(f"{said}.")
    return " ".join(sentences) or _routing_lead(data.routing)


def _routing_lead(routing: Routing) -> str:
    """Summarise the result where only routing was measured."""
    if routing.featured is None:
        return "No evaluation of these students was found."
    numbers = routing.featured[1].report["models"][OWN]
    dead = numbers["dead_experts"]
    said = f"MaxVio {numbers['max_vio']:.2f}, {dead} dead {'expert' if dead == 1 else 'experts'}."
    if numbers["nmi"] is None:
        return said
    chance = numbers["nmi_shuffled_problems"]["high"]
    return f"NMI of expert and subdomain {numbers['nmi']:.4f}, shuffled labels reach {chance:.4f}. {said}"


def facts(data: PageData) -> list[Fact]:
    """Return what was run, on what, and how long it took."""
    artifacts = data.artifacts
    students = [run.student for _, run in artifacts.runs if run.student is not None]
    rows = [
        Fact(what, ", ".join(_model_words(parent) for parent in artifacts.models[state]))
        for what, state in (("Teacher", "teacher"), ("Student", "base"))
        if artifacts.models[state]
    ]
    if measured := _measured_models(artifacts):
        rows.append(Fact("Model", ", ".join(measured)))
    rows += [Fact("Problems", _split_words(split.manifest.summary)) for split in artifacts.of_kind("split")]
    rows += [Fact("Measured on", words) for words in _problem_words(data.results)]
    counts = sorted({len(runs) for runs in artifacts.methods.values()})
    rows.append(Fact("Seeds of a method", " or ".join(map(str, counts))))
    seconds = sum(artifact.manifest.provenance.wall_seconds for _, artifact in provenance(artifacts))
    rows.append(Fact("Time of all steps", duration(seconds)))
    if students:
        trained = max((student.manifest.provenance for student in students), key=lambda p: p.created)
        rows.append(Fact("Trained", trained.created[:10]))
        rows.append(
            Fact("Made with", f"padd {trained.versions.get('padd')}, torch {trained.versions.get('torch')}")
        )
    return rows


def _measured_models(artifacts: RunArtifacts) -> list[str]:
    """Return the names of measured models that padd did not train."""
    parents = [
        artifact.manifest.parents.get(role)
        for _, run in artifacts.runs
        if run.student is None
        for role, artifact in (("student", run.experts), *(("model", each) for each in run.evaluations))
        if artifact is not None
    ]
    return list(dict.fromkeys(_model_words(parent) for parent in parents if parent is not None))


def _problem_words(results: Results) -> list[str]:
    benchmarks = next((c.benchmarks for c in results.comparisons.values()), {})
    words = [f"{name}, {found.problems:,} problems" for name, found in benchmarks.items()]
    return ["; ".join(words)] if words else []


def _split_words(summary: dict[str, Any]) -> str:
    parts = ", ".join(f"{summary[part]:,} {what}" for part, what in SUBSETS.items() if part in summary)
    return f"{summary.get('problems', 0):,}: {parts}"


def _model_words(parent: Parent) -> str:
    """Name a model: a hub model by its name, a folder by the end of its path."""
    return short_path(Path(parent.path), 2)


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f}\u202f%{_interval(estimate, '.1f')}"


def _points(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.1f} points{_interval(estimate, '+.1f')}"


def _interval(estimate: Estimate, form: str) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" ({100 * estimate.low:{form}} to {100 * estimate.high:{form}})"


def curve_words(training: Training) -> str:
    """Explain how to read curves and intervals of the training."""
    several = max(len(rows) for rows in training.metrics.values()) > 1
    band = (
        " Shaded, and after ±: 95 % t interval over seeds; of the temperature, its quartiles."
        if several
        else ""
    )
    return f"Curves are running means over a tenth of a run of 20 rollouts or more.{band}"


def subdomain_words(routing: Routing) -> list[str]:
    """Describe the source of the subdomains, and the accuracy of keywords where there are labels."""
    found = routing.classifier
    if found is None:
        return []
    words = f"Subdomains come from {SUBDOMAIN_SOURCES[found['source']]}."
    if found["accuracy"] is not None:
        words += f" Of {found['labelled']:,} labels the keyword rules find {100 * found['accuracy']:.1f} %."
    return [words]
