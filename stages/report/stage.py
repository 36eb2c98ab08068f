"""`padd report`: one page on a run, or on several compared."""

from typing import Any

from padd_artifacts.artifact import Artifact
from padd_artifacts.errors import UsageError
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.lib.options.runs import parse_runs
from padd_stages.lib.plots.style import save_figure
from padd_stages.lib.runtime.reporter import SILENT, Reporter
from padd_stages.report.accuracies import STATE_NAMES, read_results
from padd_stages.report.html import all_figures, render
from padd_stages.report.options import PAGE_FILE, ReportInputs, ReportOptions
from padd_stages.report.page_data import PageData, provenance
from padd_stages.report.routing import read_routing
from padd_stages.report.runs import Run, RunArtifacts, find_runs
from padd_stages.report.sections import page_of
from padd_stages.report.training import read_training
from padd_stages.train.curve_figures import training_curves


def plan(inputs: ReportInputs, options: ReportOptions) -> Plan:
    """Group the artifacts into runs; only manifests are read.

    Raises:
        UsageError: a run is not NAME=DIR, or ``against`` names no row of the tables.
        PaddError: a folder holds no artifact, one cannot be read, or nothing was trained or evaluated.
    """
    return _plan(find_runs(parse_runs(inputs.runs)), options)


def run(
    inputs: ReportInputs, options: ReportOptions, output: Output, reporter: Reporter = SILENT
) -> Artifact:
    """Write ``index.html``, the numbers as ``report.json``, their provenance, and the figures as PNG.

    Raises:
        PaddError: a file that is read has changed since it was written, or evaluations do not fit each other.
    """
    output.check()
    artifacts = find_runs(parse_runs(inputs.runs))
    with ArtifactWriter(output, _plan(artifacts, options)) as writer:
        reporter.phase("reading")
        data = PageData(
            artifacts, read_results(artifacts, options), read_training(artifacts), read_routing(artifacts)
        )
        page = page_of(data)
        reporter.phase("drawing")
        writer.write_json("report.json", data.as_json())
        writer.write_json("provenance.json", _provenance(artifacts), volatile=True)
        for captioned in all_figures(page.sections):
            save_figure(captioned.figure, writer.path(f"figures/{captioned.name}.png"))
        if (curves := training_curves(data.training.metrics)) is not None:
            save_figure(curves, writer.path("figures/training.png"))
        writer.path(PAGE_FILE, volatile=True).write_text(render(page), encoding="utf-8")
        writer.summary.update({name: _counted(runs) for name, runs in artifacts.methods.items()})
    return writer.artifact


def _plan(artifacts: RunArtifacts, options: ReportOptions) -> Plan:
    _check_names(artifacts)
    rows = [*(STATE_NAMES[state] for state, held in artifacts.states.items() if held), *artifacts.methods]
    if options.against is not None and options.against not in rows:
        raise UsageError(
            f"--against is '{options.against}', which is no method here, so there is nothing to take differences to; "
            f"the methods are {', '.join(rows)}."
        )
    named = sorted(
        (f"{role}: {a.manifest.kind}", a.manifest.digest, a.as_parent()) for role, a in provenance(artifacts)
    )
    parents = {f"{name} {number}": parent for number, (name, _, parent) in enumerate(named)}
    return Plan("report", options, parents, {name: len(runs) for name, runs in artifacts.methods.items()})


def _counted(runs: list[Run]) -> str:
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}"


def _check_names(artifacts: RunArtifacts) -> None:
    taken = [name for name, run in artifacts.runs if name in STATE_NAMES.values() and run.student is not None]
    if taken:
        raise UsageError(
            f"a trained student is called '{taken[0]}', which is what the page calls a model that students came from, "
            "so both would be one row; give it another name with NAME=DIR."
        )


def _provenance(artifacts: RunArtifacts) -> list[dict[str, Any]]:
    """Return command, time, versions and path of every artifact of the page."""
    return [
        {"what": role, "kind": a.manifest.kind, "digest": a.manifest.digest, "path": str(a.path)}
        | a.manifest.provenance.model_dump(mode="json")
        for role, a in provenance(artifacts)
    ]
