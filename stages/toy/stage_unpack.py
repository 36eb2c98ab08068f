"""``padd toy unpack`` in the form of a stage: the embedded problems and models as an artifact."""

import json
from typing import Any

from padd_artifacts.artifact import Artifact
from padd_artifacts.manifest import file_parent
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.lib.runtime.reporter import SILENT, Reporter
from padd_stages.toy.options import ToyInputs, ToyOptions
from padd_stages.toy.packing import MANIFEST, WEIGHTS
from padd_stages.toy.unpack import shipped_manifest, unpack


def plan(inputs: ToyInputs, options: ToyOptions) -> Plan:
    """Return the plan; the shipped weights are the toy's parent, so that other weights make another toy."""
    shipped_manifest()
    parent = file_parent(WEIGHTS / MANIFEST)
    return Plan("toy", options, {"weights": parent}, {"problems": options.problems})


def run(inputs: ToyInputs, options: ToyOptions, output: Output, reporter: Reporter = SILENT) -> Artifact:
    """Write problems.jsonl, teacher/, student/ and toy.json, the report of the build that made the models."""
    with ArtifactWriter(output, plan(inputs, options)) as writer:
        reporter.phase("unpacking the toy")
        report = unpack(writer.folder, options.problems, options.seed)
        (writer.folder / "toy.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        writer.summary.update(toy_summary(report, options))
    return writer.artifact


def toy_summary(report: dict[str, Any], options: ToyOptions) -> dict[str, Any]:
    """Return the number of problems, and the accuracies measured when the models were built."""
    measured = {
        f"{model}_{mode}": report[model][mode]["all"]
        for model in ("teacher", "student")
        for mode in ("greedy", "sampled")
    }
    return {"problems": options.problems, **measured}
