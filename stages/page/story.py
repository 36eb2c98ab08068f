"""The story of a run, or of several beside each other: which numbers and figures stand where on the page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from padd_artifacts.artifact import Artifact
from padd_artifacts.manifest import Parent
from padd_stages.page import tables
from padd_stages.page.drawings import (
    result_drawings,
    routing_drawings,
    stage1_drawings,
    training_drawings,
    training_panels,
)
from padd_stages.page.render import Fact, Page, Section
from padd_stages.page.results import STATE_NAMES, Results
from padd_stages.page.routing import Routing
from padd_stages.page.runs import Found
from padd_stages.page.samples import Sample, read_samples
from padd_stages.page.training import Training, warmup_runs
from padd_stages.report.expert_figures import decoder_layers
from padd_stages.report.method_tables import tables as accuracy_tables
from padd_stages.report.methods import AVERAGE, Estimate

SUBSETS = {"a": "clusters", "b": "warmup", "c": "training", "d": "held out"}


@dataclass(frozen=True)
class Story:
    """Everything that was read for a page."""

    found: Found
    results: Results
    training: Training
    routing: Routing

    @property
    def methods(self) -> list[str]:
        """In the order that gives each its colour."""
        return list(self.found.methods)

    def as_json(self) -> dict[str, Any]:
        """All numbers of the page but those of provenance."""
        found = self.found
        return {
            "methods": {
                name: [
                    {"seed": run.seed, "summary": run.student.manifest.summary if run.student else None}
                    for run in runs
                ]
                for name, runs in found.methods.items()
            },
            "result": self.results.as_json(),
            "stage1": {
                "clusters": [a.report for a in found.of_kind("clusters")],
                "warmup": [a.report for a in found.of_kind("student")],
            },
            "training": self.training.as_json(),
            "routing": self.routing.as_json(),
            "notes": self.notes(),
        }

    def notes(self) -> list[str]:
        """What weakens what the page says, a sentence each."""
        notes = list(self.results.notes)
        for name, runs in self.found.methods.items():
            students = [run.student for run in runs if run.student is not None]
            differing = _differing(students)
            if differing:
                notes.append(
                    f"{name}: its runs differ in {', '.join(differing)}, so they are not seeds of one method."
                )
            states = [s.manifest.summary.get("stage3") for s in students]
            if acting := [state for state in states if state in ("inactive", "saturated")]:
                notes.append(f"{name}: Stage III was {acting[0]} in {len(acting)} of {len(states)} runs.")
        return list(dict.fromkeys(notes))


def page_of(story: Story) -> Page:
    """The page: what was run, on what, how long, and the result; then Stage I, training, routing, samples."""
    samples, layers, samples_of = _samples(story.routing)
    sections = [_result(story), _stage1(story.found), _training(story), _routing(story)]
    return Page(
        title=_title(story),
        lead=_lead(story),
        facts=_facts(story),
        sections=[section for section in sections if _holds_something(section)],
        samples=samples,
        layers=layers,
        samples_of=samples_of,
        provenance=Section(
            "provenance", "Provenance", tables=[tables.artifact_table(provenance(story.found))]
        ),
        commands=[
            Fact(role, artifact.manifest.provenance.command)
            for role, artifact in provenance(story.found)
            if artifact.manifest.provenance.command
        ],
        notes=story.notes(),
    )


def provenance(found: Found) -> list[tuple[str, Artifact]]:
    """Every artifact of the page with what it is called, in the order in which they came to be."""
    listed = [(_origin_name(a), a) for a in found.origins]
    for name, run in found.runs:
        label = f"{name}, seed {run.seed}"
        listed += [(label, a) for a in (run.student, run.experts, *run.evaluations) if a is not None]
    listed += [(STATE_NAMES[state], a) for state, evaluations in found.states.items() for a in evaluations]
    return sorted(listed, key=lambda row: row[1].manifest.provenance.created)


def _result(story: Story) -> Section:
    shown = []
    for mode, comparison in story.results.comparisons.items():
        titles = [
            f"{mode.capitalize()} accuracy, %",
            f"{mode.capitalize()} minus {comparison.against}, points",
        ]
        found = accuracy_tables(comparison)
        shown += [replace(table, title=title) for table, title in zip(found, titles)]
    drawings = list(result_drawings(story.results, story.methods))
    text = (
        "Differences are paired by problem; all intervals hold 95 % of bootstrap draws of problems and seeds."
    )
    return Section("result", "Result", [text] if drawings else [], drawings=drawings, tables_after=shown)


def _stage1(found: Found) -> Section:
    clusters, warmups = found.of_kind("clusters"), found.of_kind("student")
    for artifact in [*clusters, *warmups]:
        artifact.check_file("report.json")
    made = [tables.cluster_table(a) for a in clusters] + [tables.router_table(a) for a in clusters]
    made += [tables.warmup_table(a) for a in warmups]
    runs = warmup_runs(warmups)
    verdicts = [f"{v[0].upper()}{v[1:]}." for a in clusters if (v := a.report.get("verdict"))]
    return Section(
        "stage1",
        "Stage I",
        text=verdicts,
        tables=[table for table in made if table is not None],
        panels=list(stage1_drawings(runs)),
        legend=list(runs),
    )


def _training(story: Story) -> Section:
    training, shown = story.training, story.routing.shown
    if not training.metrics:
        return Section("training", "Training")
    layers = decoder_layers(shown[1].report) if shown is not None else None
    return Section(
        "training",
        "Training",
        text=[_curve_words(training)],
        tables=[tables.run_table(story.found, training), tables.training_table(training)],
        drawings=list(training_drawings(training, layers)),
        panels=list(training_panels(training)),
        legend=list(training.metrics),
    )


def _routing(story: Story) -> Section:
    if not story.routing.reports:
        return Section("routing", "Routing")
    made = [tables.routing_table(story.routing), tables.shift_table(story.routing)]
    return Section(
        "routing",
        "Routing",
        drawings=list(routing_drawings(story.routing)),
        tables=[table for table in made if table is not None],
    )


def _samples(routing: Routing) -> tuple[list[Sample], list[int], str]:
    if routing.shown is None or (content := routing.shown[1].samples) is None:
        return [], [], ""
    return read_samples(content), content["layers"], routing.shown[0]


def _title(story: Story) -> str:
    names, models = story.methods, story.found.models
    if len(names) == 1 and models["teacher"] and models["base"]:
        return f"{_model_words(models['base'][0])}, distilled from {_model_words(models['teacher'][0])}"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _lead(story: Story) -> str:
    """What came out, a sentence a way of asking: the last method, what it is compared to, and the best student."""
    sentences = []
    for mode, comparison in story.results.comparisons.items():
        column = AVERAGE if AVERAGE in comparison.columns else comparison.columns[0]
        rows = [row for row in comparison.rows if not row.published and column in row.accuracy]
        students = [row for row in rows if row.name != STATE_NAMES["teacher"]]
        last = next((row for row in reversed(students) if row.name in story.methods), None)
        if last is None:
            continue
        said = f"{mode.capitalize()} accuracy of {last.name}: {_percent(last.accuracy[column])}"
        if column in last.difference:
            said += f", {_points(last.difference[column])} beside {comparison.against}"
        best = max(students, key=lambda row: row.accuracy[column].value)
        if best is not last and best.name != comparison.against:
            said += f"; the highest of all is {best.name}, {_percent(best.accuracy[column])}"
        sentences.append(f"{said}.")
    return " ".join(sentences) or "No evaluation of these students was found."


def _facts(story: Story) -> list[Fact]:
    found = story.found
    students = [run.student for _, run in found.runs if run.student is not None]
    facts = [
        Fact(what, ", ".join(_model_words(parent) for parent in found.models[state]))
        for what, state in (("Teacher", "teacher"), ("Student", "base"))
        if found.models[state]
    ]
    facts += [Fact("Problems", _split_words(split.manifest.summary)) for split in found.of_kind("split")]
    facts += [Fact("Measured on", words) for words in _problem_words(story.results)]
    counts = sorted({len(runs) for runs in found.methods.values()})
    facts.append(Fact("Seeds of a method", " or ".join(map(str, counts))))
    seconds = sum(artifact.manifest.provenance.wall_seconds for _, artifact in provenance(found))
    facts.append(Fact("Time of all steps", tables.duration(seconds)))
    if students:
        trained = max((student.manifest.provenance for student in students), key=lambda p: p.created)
        facts.append(Fact("Trained", trained.created[:10]))
        facts.append(
            Fact("Made with", f"padd {trained.versions.get('padd')}, torch {trained.versions.get('torch')}")
        )
    return facts


def _problem_words(results: Results) -> list[str]:
    benchmarks = next((c.benchmarks for c in results.comparisons.values()), {})
    words = [f"{name}, {found.problems:,} problems" for name, found in benchmarks.items()]
    return ["; ".join(words)] if words else []


def _split_words(summary: dict[str, Any]) -> str:
    parts = ", ".join(f"{summary[part]:,} {what}" for part, what in SUBSETS.items() if part in summary)
    return f"{summary.get('problems', 0):,}: {parts}"


def _model_words(parent: Parent) -> str:
    """A model of a hub by its name, what lies in a folder by the end of its path."""
    return tables.short_path(Path(parent.path), 2)


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f}\u202f%{_interval(estimate, '.1f')}"


def _points(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.1f} points{_interval(estimate, '+.1f')}"


def _interval(estimate: Estimate, form: str) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" ({100 * estimate.low:{form}} to {100 * estimate.high:{form}})"


def _curve_words(training: Training) -> str:
    several = max(len(rows) for rows in training.metrics.values()) > 1
    band = (
        " Shaded, and after ±: 95 % t interval over seeds; of the temperature, its quartiles."
        if several
        else ""
    )
    return f"Curves are running means over a tenth of a run of 20 rollouts or more.{band}"


def _differing(students: Sequence[Artifact]) -> list[str]:
    options = [student.manifest.options for student in students]
    names = dict.fromkeys(name for given in options for name in given)
    return [name for name in names if any(given.get(name) != options[0].get(name) for given in options)]


def _origin_name(artifact: Artifact) -> str:
    kind = artifact.manifest.kind
    if kind != "student":
        return kind
    return "Stage I" if "clusters" in artifact.manifest.parents else "teacher"


def _holds_something(section: Section) -> bool:
    return bool(section.tables or section.drawings or section.panels or section.tables_after)
