"""The page's sentences: its title, what came out, what it was made from, and how figures are to be read."""

from pathlib import Path
from typing import Any

from padd_artifacts.manifest import Parent
from padd_stages.compare.methods import AVERAGE, Estimate
from padd_stages.lib.plots.table import duration
from padd_stages.report.accuracies import STATE_NAMES, Results
from padd_stages.report.html import Fact
from padd_stages.report.page_data import Story, provenance
from padd_stages.report.routing import OWN, Routing
from padd_stages.report.runs import Found
from padd_stages.report.tables import short_path
from padd_stages.report.training import Training

SUBDOMAIN_SOURCES = {
    "labels": "the problems' own labels",
    "keywords": "keywords in the problems",
    "mixed": "the problems' own labels, and from keywords where they have none",
}
SUBSETS = {"a": "clusters", "b": "warmup", "c": "training", "d": "held out"}


def title(story: Story) -> str:
    """The methods, or of a single one whom it taught."""
    names, models = story.methods, story.found.models
    if len(names) == 1 and models["teacher"] and models["base"]:
        return f"{_model_words(models['base'][0])}, distilled from {_model_words(models['teacher'][0])}"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def lead(story: Story) -> str:
    """What came out, a sentence a way of asking: the last method, what it is compared to, and the best student."""
    sentences = []
    for mode, comparison in story.results.comparisons.items():
        students = [
            row
            for row in comparison.rows
            if not row.published and row.accuracy and row.name != STATE_NAMES["teacher"]
        ]
        last = next((row for row in reversed(students) if row.name in story.methods), None)
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
    return " ".join(sentences) or _routing_lead(story.routing)


def _routing_lead(routing: Routing) -> str:
    """What came out where only routing was measured."""
    if routing.shown is None:
        return "No evaluation of these students was found."
    numbers = routing.shown[1].report["models"][OWN]
    dead = numbers["dead_experts"]
    said = f"MaxVio {numbers['max_vio']:.2f}, {dead} dead {'expert' if dead == 1 else 'experts'}."
    if numbers["nmi"] is None:
        return said
    chance = numbers["nmi_shuffled_problems"]["high"]
    return f"NMI of expert and subdomain {numbers['nmi']:.4f}, shuffled labels reach {chance:.4f}. {said}"


def facts(story: Story) -> list[Fact]:
    """What was run, on what, and how long it took."""
    found = story.found
    students = [run.student for _, run in found.runs if run.student is not None]
    rows = [
        Fact(what, ", ".join(_model_words(parent) for parent in found.models[state]))
        for what, state in (("Teacher", "teacher"), ("Student", "base"))
        if found.models[state]
    ]
    if measured := _measured_models(found):
        rows.append(Fact("Model", ", ".join(measured)))
    rows += [Fact("Problems", _split_words(split.manifest.summary)) for split in found.of_kind("split")]
    rows += [Fact("Measured on", words) for words in _problem_words(story.results)]
    counts = sorted({len(runs) for runs in found.methods.values()})
    rows.append(Fact("Seeds of a method", " or ".join(map(str, counts))))
    seconds = sum(artifact.manifest.provenance.wall_seconds for _, artifact in provenance(found))
    rows.append(Fact("Time of all steps", duration(seconds)))
    if students:
        trained = max((student.manifest.provenance for student in students), key=lambda p: p.created)
        rows.append(Fact("Trained", trained.created[:10]))
        rows.append(
            Fact("Made with", f"padd {trained.versions.get('padd')}, torch {trained.versions.get('torch')}")
        )
    return rows


def _measured_models(found: Found) -> list[str]:
    """Models that padd did not train, of which something was measured."""
    parents = [
        artifact.manifest.parents.get(role)
        for _, run in found.runs
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
    """A model of a hub by its name, what lies in a folder by the end of its path."""
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
    """How curves and intervals of the training are to be read."""
    several = max(len(rows) for rows in training.metrics.values()) > 1
    band = (
        " Shaded, and after ±: 95 % t interval over seeds; of the temperature, its quartiles."
        if several
        else ""
    )
    return f"Curves are running means over a tenth of a run of 20 rollouts or more.{band}"


def subdomain_words(routing: Routing) -> list[str]:
    """Where the subdomains come from, and how good keywords are where there are labels."""
    found = routing.classifier
    if found is None:
        return []
    words = f"Subdomains come from {SUBDOMAIN_SOURCES[found['source']]}."
    if found["accuracy"] is not None:
        words += f" Of {found['labelled']:,} labels the keyword rules find {100 * found['accuracy']:.1f} %."
    return [words]
