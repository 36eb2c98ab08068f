"""`padd compare`: comparison of methods from their evaluations (docs/METHOD.md, sections 6 and 7)."""

from typing import Any

from padd_artifacts.artifact import Artifact
from padd_artifacts.errors import UsageError
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.compare.evaluations import align, read_evaluations
from padd_stages.compare.methods import Comparison, compare
from padd_stages.compare.options import CompareInputs, CompareOptions
from padd_stages.compare.published import load_published
from padd_stages.compare.view import long_csv, markdown
from padd_stages.lib.options.runs import parse_runs
from padd_stages.lib.runtime.reporter import SILENT, Reporter


def plan(inputs: CompareInputs, options: CompareOptions) -> Plan:
    """Read the evaluations and check that they can be compared.

    Raises:
        UsageError: a run is not NAME=DIR, or ``against`` names no method.
        PaddError: an evaluation cannot be read, is there twice, or does not fit the others.
    """
    return _measure(inputs, options)[0]


def preview(inputs: CompareInputs, options: CompareOptions) -> dict[str, Any]:
    """Return the numbers of ``report.json``, without writing anything; errors as of :func:`plan`."""
    return _measure(inputs, options)[1].as_json()


def run(
    inputs: CompareInputs, options: CompareOptions, output: Output, reporter: Reporter = SILENT
) -> Artifact:
    """Write ``report.json``, ``table.md``, ``table.csv`` and ``accuracy.png``; errors as of :func:`plan`."""
    from padd_stages.compare.figures import method_bars
    from padd_stages.lib.plots.style import save_figure

    output.check()
    planned, comparison = _measure(inputs, options)
    reporter.phase("writing")
    with ArtifactWriter(output, planned) as writer:
        writer.write_json("report.json", comparison.as_json())
        writer.path("table.md").write_text(markdown(comparison), encoding="utf-8")
        writer.path("table.csv").write_text(long_csv(comparison), encoding="utf-8")
        save_figure(method_bars(comparison), writer.path("accuracy.png"))
        for row in comparison.rows:
            if not row.published:
                writer.summary[row.name] = {name: cell.value for name, cell in row.accuracy.items()}
    return writer.artifact


def _measure(inputs: CompareInputs, options: CompareOptions) -> tuple[Plan, Comparison]:
    folders = parse_runs(inputs.runs)
    if options.against is not None and options.against not in folders:
        raise UsageError(
            f"--against is '{options.against}', which is no method here, so there is nothing to take differences to; "
            f"the methods are {', '.join(folders)}."
        )
    evaluations = read_evaluations(folders, options.mode)
    published = load_published(options.published) if options.published is not None else None
    comparison = compare(align(evaluations), against=options.against, seed=options.seed, published=published)
    parents = {
        f"{name}/{number}": run.artifact.as_parent()
        for name, runs in evaluations.items()
        for number, run in enumerate(runs)
    }
    return Plan("comparison", options, parents), comparison
