"""The sections of a page, in order: which tables and figures stand where."""

from dataclasses import replace

from padd_stages.analyze_experts.figures import decoder_layers
from padd_stages.cluster import view as cluster_view
from padd_stages.compare.view import comparison_tables
from padd_stages.report import sentences, tables
from padd_stages.report.figures import (
    result_drawings,
    routing_drawings,
    stage1_drawings,
    training_drawings,
    training_panels,
)
from padd_stages.report.html import Fact, Page, Section
from padd_stages.report.page_data import Story, provenance
from padd_stages.report.routing import Routing
from padd_stages.report.runs import Found
from padd_stages.report.samples import Sample, read_samples
from padd_stages.report.training import warmup_runs
from padd_stages.warmup import view as warmup_view


def page_of(story: Story) -> Page:
    """The page: what was run, on what, how long, and the result; then Stage I, training, routing, samples."""
    samples, layers, samples_of = _samples(story.routing)
    sections = [_result(story), _stage1(story.found), _training(story), _routing(story)]
    return Page(
        title=sentences.title(story),
        lead=sentences.lead(story),
        facts=sentences.facts(story),
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


def _result(story: Story) -> Section:
    shown = []
    for mode, comparison in story.results.comparisons.items():
        titles = [
            f"{mode.capitalize()} accuracy, %",
            f"{mode.capitalize()} minus {comparison.against}, points",
        ]
        found = comparison_tables(comparison)
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
    made = [table for a in clusters for table in cluster_view.tables(a.report)]
    made += [table for a in warmups for table in warmup_view.tables(a.report)]
    runs = warmup_runs(warmups)
    verdicts = [f"{v[0].upper()}{v[1:]}." for a in clusters if (v := a.report.get("verdict"))]
    return Section(
        "stage1",
        "Stage I",
        text=verdicts,
        tables=made,
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
        text=[sentences.curve_words(training)],
        tables=[tables.run_table(story.found, training), tables.training_table(training)],
        drawings=list(training_drawings(training, layers)),
        panels=list(training_panels(training)),
        legend=list(training.metrics),
    )


def _routing(story: Story) -> Section:
    if not story.routing.reports:
        return Section("routing", "Routing")
    makers = (tables.specialisation_table, tables.load_table, tables.shift_table, tables.path_table)
    made = [make(story.routing) for make in makers]
    confusion = tables.classifier_table(story.routing)
    return Section(
        "routing",
        "Routing",
        text=sentences.subdomain_words(story.routing),
        drawings=list(routing_drawings(story.routing)),
        tables=[table for table in made if table is not None],
        tables_after=[confusion] if confusion is not None else [],
    )


def _samples(routing: Routing) -> tuple[list[Sample], list[int], str]:
    if routing.shown is None or (content := routing.shown[1].samples) is None:
        return [], [], ""
    return read_samples(content), content["layers"], routing.shown[0]


def _holds_something(section: Section) -> bool:
    return bool(section.tables or section.drawings or section.panels or section.tables_after)
