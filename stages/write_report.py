"""`padd report`: one page that tells the story of a run, or of several beside each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from padd_artifacts.artifact import Artifact
from padd_artifacts.errors import UsageError
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.options.report import ReportOptions
from padd_stages.page.render import all_drawings, render
from padd_stages.page.results import STATE_NAMES, read_results
from padd_stages.page.routing import read_routing
from padd_stages.page.runs import Found, find
from padd_stages.page.story import Story, page_of, provenance
from padd_stages.page.training import read_training
from padd_stages.report.curves import training_curves
from padd_stages.report.figures import save_figure

PAGE_FILE = "index.html"


@dataclass(frozen=True)
class Report:
    """A report that is about to be written: what it is made from, and its recipe."""

    found: Found
    options: ReportOptions
    plan: Plan


def plan(folders: Mapping[str, Sequence[Path]], options: ReportOptions) -> Report:
    """Find what belongs together; nothing but manifests is read.

    Args:
        folders: by method, folders of its runs or single artifacts.

    Raises:
        UsageError: ``against`` names no row of the tables.
        PaddError: a folder holds no artifact, one cannot be read, or nothing was trained or evaluated.
    """
    found = find(folders)
    rows = [*(STATE_NAMES[state] for state, held in found.states.items() if held), *found.methods]
    if options.against is not None and options.against not in rows:
        raise UsageError(
            f"--against is '{options.against}', which is no method here, so there is nothing to take differences to; "
            f"the methods are {', '.join(rows)}."
        )
    parents = {
        f"{number:03d} {role}": artifact.as_parent()
        for number, (role, artifact) in enumerate(provenance(found))
    }
    sizes = {name: f"{len(runs)} runs" for name, runs in found.methods.items()}
    return Report(found, options, Plan("report", options, parents, sizes))


def run(report: Report, output: Output) -> Artifact:
    """Write ``index.html``, the numbers as ``report.json``, where they come from, and the figures as PNG.

    Raises:
        PaddError: a file that is read has changed since it was written, or evaluations do not fit each other.
    """
    with ArtifactWriter(output, report.plan) as writer:
        found = report.found
        story = Story(found, read_results(found, report.options), read_training(found), read_routing(found))
        page = page_of(story)
        writer.write_json("report.json", story.as_json())
        writer.write_json("provenance.json", _provenance(found), volatile=True)
        for drawing in all_drawings(page.sections):
            save_figure(drawing.figure, writer.path(f"figures/{drawing.name}.png"))
        if (curves := training_curves(story.training.metrics)) is not None:
            save_figure(curves, writer.path("figures/training.png"))
        writer.path(PAGE_FILE, volatile=True).write_text(render(page), encoding="utf-8")
        writer.summary.update({name: len(runs) for name, runs in found.methods.items()})
    return writer.artifact


def _provenance(found: Found) -> list[dict[str, object]]:
    """Command, time, versions and place of every artifact that the page was made from."""
    return [
        {"what": role, "kind": a.manifest.kind, "digest": a.manifest.digest, "path": str(a.path)}
        | a.manifest.provenance.model_dump(mode="json")
        for role, a in provenance(found)
    ]
