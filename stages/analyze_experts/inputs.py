"""Inputs of a routing analysis: the same tokens for every model, and the teacher's clusters on a sample of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from padd_artifacts.artifact import Artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_stages.analyze_experts.figures import TITLES
from padd_stages.analyze_experts.options import AnalyzeOptions
from padd_stages.analyze_experts.probe import ClusterTokens, Ends, read_clusters
from padd_stages.analyze_experts.texts import AnalysisText, Row, analysis_texts, counted_ends, sample_texts
from padd_stages.lib.models.expert_clusters import ExpertClusters
from padd_stages.lib.models.frozen import FrozenModel
from padd_stages.lib.models.loading import load_config, load_meta_model, load_tokenizer
from padd_stages.lib.models.moe_layers import find_layers
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.reporter import Reporter


@dataclass(frozen=True)
class ModelOutline:
    """A model without its weights: its family, MoE layers (by decoder layer), experts, and the texts in its tokens."""

    family: str
    layers: list[int]
    experts: int
    top_k: int
    tokenizer: Any
    texts: list[AnalysisText]
    left_out: int

    @property
    def routing(self) -> tuple[str, list[int], int, int]:
        """Structure that all checkpoints of one model share."""
        return self.family, self.layers, self.experts, self.top_k

    @property
    def description(self) -> str:
        """The structure in words."""
        return f"a {self.family} of {len(self.layers)} MoE layers with {self.top_k} of {self.experts} experts active"


@dataclass(frozen=True)
class AnalysisData:
    """Texts that every model reads in the same tokens, and the teacher's activations on a sample of them.

    Attributes:
        texts: all of them; left_out: rows of which the cut leaves nothing; sample: texts on which every expert runs.
        ends, teacher: where the sample's tokens end and what the teacher's clusters did, by row; both empty without a
            teacher.
    """

    texts: Sequence[AnalysisText]
    left_out: int
    sample: Sequence[AnalysisText]
    ends: Ends
    teacher: Mapping[int, ClusterTokens]


def outline(role: str, name: str, rows: Sequence[Row], options: AnalyzeOptions) -> ModelOutline:
    """What can be told, and refused, before any weight is read."""
    found = find_layers(load_meta_model(name))
    layers = [layer.layer_index for layer in found]
    if options.layer is not None and options.layer not in layers:
        raise UsageError(
            f"--layer is {options.layer}, which is no MoE layer of the {TITLES[role]}; its MoE layers are "
            f"{', '.join(map(str, layers))}; name one of them."
        )
    model, config = load_config(name)
    tokenizer = load_tokenizer(model.source)
    texts, left_out = analysis_texts(
        tokenizer,
        rows,
        system=options.system,
        thinking=options.thinking,
        max_tokens=options.max_tokens,
    )
    if not texts:
        raise PaddError(
            f"--max-tokens {options.max_tokens} cuts every one of {len(rows)} problems before its first counted "
            "token, so nothing is left to analyse; raise it."
        )
    return ModelOutline(
        config.model_type, layers, found[0].num_experts, found[0].top_k, tokenizer, texts, left_out
    )


def check_comparable(outlines: dict[str, ModelOutline]) -> None:
    """Check that layers, experts and tokens agree: experts are compared by number and token by token."""
    student = outlines["student"]
    for role, other in outlines.items():
        if other.routing != student.routing:
            raise PaddError(
                f"the {TITLES[role]} is {other.description} and the student is {student.description}, "
                "so they cannot be compared; "
                "name checkpoints of one model."
            )
        if other.texts != student.texts:
            raise PaddError(
                f"the {TITLES[role]} reads the problems as other tokens than the student, so they cannot be compared "
                "token by token; name checkpoints of one model, with its tokenizer and chat template."
            )


def read_data(
    rows: Sequence[Row],
    student: ModelOutline,
    options: AnalyzeOptions,
    processes: Processes,
    *,
    teacher: str | None,
    clusters: Artifact | None,
    reporter: Reporter,
) -> AnalysisData:
    """Choose texts and sample; with a teacher and its clusters artifact run the clusters on the sample."""
    if student.left_out:
        reporter.note(f"{student.left_out} of {len(rows)} problems are left out, cut off by --max-tokens.")
    sample = sample_texts(student.texts, options.probe_tokens, options.seed)
    if teacher is None or clusters is None:
        return AnalysisData(student.texts, student.left_out, sample, {}, {})
    ends = _ends(student.tokenizer, rows, sample, options)
    reporter.phase(f"loading {teacher}")
    model = FrozenModel.load(teacher, options, processes, moe=False, shards=processes.shards)
    tokens = _teacher_tokens(model, ExpertClusters.from_artifact(clusters), rows, sample, options, reporter)
    return AnalysisData(student.texts, student.left_out, sample, ends, tokens)


def _teacher_tokens(
    teacher: FrozenModel,
    clusters: ExpertClusters,
    rows: Sequence[Row],
    sample: Sequence[AnalysisText],
    options: AnalyzeOptions,
    reporter: Reporter,
) -> dict[int, ClusterTokens]:
    """Run the teacher on the sample's problems and solutions, in its own template and tokens."""
    texts, _ = analysis_texts(
        teacher.loaded.tokenizer,
        [rows[text.row] for text in sample],
        system=options.system,
        thinking=options.thinking,
        max_tokens=min(options.max_tokens, teacher.loaded.max_positions),
    )
    texts = [replace(text, row=sample[text.row].row) for text in texts]
    ends = _ends(teacher.loaded.tokenizer, rows, texts, options)
    reporter.phase("clusters of the teacher", len(texts))
    return read_clusters(teacher, clusters, texts, ends, batch_tokens=options.batch_tokens, reporter=reporter)


def _ends(
    tokenizer: Any, rows: Sequence[Row], texts: Sequence[AnalysisText], options: AnalyzeOptions
) -> Ends:
    template = {"system": options.system, "thinking": options.thinking}
    return {text.row: counted_ends(tokenizer, rows[text.row], text, **template) for text in texts}
