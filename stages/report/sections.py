"""Sections of a page, in order, with their tables and figures."""

from dataclasses import replace

from padd_stages.analyze_experts.figures import decoder_layers
from padd_stages.cluster import view as cluster_view
from padd_stages.compare.view import comparison_tables
from padd_stages.report import sentences, tables
from padd_stages.report.figures import (
    result_figures,
    routing_figures,
    stage1_figures,
    training_figures,
    training_panels,
)
from padd_stages.report.html import Fact, Page, Section
from padd_stages.report.page_data import PageData, provenance
from padd_stages.report.routing import Routing
from padd_stages.report.runs import RunArtifacts
from padd_stages.report.samples import Sample, read_samples
from padd_stages.report.training import warmup_runs
from padd_stages.warmup import view as warmup_view


def page_of(data: PageData) -> Page:
    """Build the page: what was run, on what, how long, and the result; then Stage I, training, routing, samples."""
    samples, layers, samples_of = _samples(data.routing)
    sections = [_result(data), _stage1(data.artifacts), _training(data), _routing(data)]
    return Page(
        title=sentences.title(data),
        lead=sentences.lead(data),
        facts=sentences.facts(data),
        sections=[section for section in sections if _holds_something(section)],
        samples=samples,
        layers=layers,
        samples_of=samples_of,
        provenance=Section(
            "provenance", "Provenance", tables=[tables.artifact_table(provenance(data.artifacts))]
        ),
        commands=[
            Fact(role, artifact.manifest.provenance.command)
            for role, artifact in provenance(data.artifacts)
            if artifact.manifest.provenance.command
        ],
        notes=data.notes(),
    )


def _result(data: PageData) -> Section:
    compared = []
    for mode, comparison in data.results.comparisons.items():
        titles = [
            f"{mode.capitalize()} accuracy, %",
            f"{mode.capitalize()} minus {comparison.against}, points",
        ]
        found = comparison_tables(comparison)
        compared += [replace(table, title=title) for table, title in zip(found, titles)]
    figures = list(result_figures(data.results, data.methods))
    text = (
        "Differences are paired by problem; all intervals hold 95 % of bootstrap draws of problems and seeds."
    )
    return Section("result", "Result", [text] if figures else [], figures=figures, tables_after=compared)


def _stage1(artifacts: RunArtifacts) -> Section:
    clusters, warmups = artifacts.of_kind("clusters"), artifacts.of_kind("student")
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
        panels=list(stage1_figures(runs)),
        legend=list(runs),
    )


def _training(data: PageData) -> Section:
    training, featured = data.training, data.routing.featured
    if not training.metrics:
        return Section("training", "Training")
    layers = decoder_layers(featured[1].report) if featured is not None else None
    return Section(
        "training",
        "Training",
        text=[sentences.curve_words(training)],
        tables=[tables.run_table(data.artifacts, training), tables.training_table(training)],
        figures=list(training_figures(training, layers)),
        panels=list(training_panels(training)),
        legend=list(training.metrics),
    )


def _routing(data: PageData) -> Section:
    if not data.routing.reports:
        return Section("routing", "Routing")
    makers = (tables.specialisation_table, tables.load_table, tables.shift_table, tables.path_table)
    made = [make(data.routing) for make in makers]
    confusion = tables.classifier_table(data.routing)
    return Section(
        "routing",
        "Routing",
        text=sentences.subdomain_words(data.routing),
        figures=list(routing_figures(data.routing)),
        tables=[table for table in made if table is not None],
        tables_after=[confusion] if confusion is not None else [],
    )


def _samples(routing: Routing) -> tuple[list[Sample], list[int], str]:
    if routing.featured is None or (content := routing.featured[1].samples) is None:
        return [], [], ""
    return read_samples(content), content["layers"], routing.featured[0]


def _holds_something(section: Section) -> bool:
    return bool(section.tables or section.figures or section.panels or section.tables_after)
