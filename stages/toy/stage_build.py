"""``padd toy build`` in the form of a stage: the toy's models trained from nothing."""

from padd_artifacts.artifact import Artifact
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.lib.runtime.reporter import SILENT, Reporter
from padd_stages.toy.options import ToyInputs, ToyOptions
from padd_stages.toy.problems import generate
from padd_stages.toy.recipe import build
from padd_stages.toy.stage_unpack import toy_summary


def plan(inputs: ToyInputs, options: ToyOptions) -> Plan:
    """Return the plan; nothing is read, the recipe is code."""
    return Plan("toy", options, {}, {"problems": options.problems})


def run(inputs: ToyInputs, options: ToyOptions, output: Output, reporter: Reporter = SILENT) -> Artifact:
    """Train both models; write them with problems.jsonl and toy.json, the measured accuracies."""
    with ArtifactWriter(output, plan(inputs, options)) as writer:
        report = build(writer.folder, reporter)
        writer.write_jsonl("problems.jsonl", generate(options.problems, options.seed))
        writer.summary.update(toy_summary(report, options))
    return writer.artifact
