"""Inputs and options of `padd cluster` (METHOD.md, section 2)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from padd_stages.lib.options.base import Artifacts, Inputs, Method, Options, Run
from padd_stages.lib.options.shared import (
    AttnImplementation,
    Device,
    Dtype,
    ExpertsImplementation,
    TeacherDevice,
)


class ClusterInputs(Inputs):
    """Inputs of cluster."""

    teacher: Annotated[str, Artifacts("Dense teacher: folder, hub id or short name.")]
    student: Annotated[
        str | None,
        Artifacts("Pre-trained MoE student; with it (and --split) come router rows and targets."),
    ] = None
    split: Annotated[Path | None, Artifacts("The split artifact; its D_A is read.")] = None


class ClusterOptions(Options):
    """Options of the clustering and of the student's router."""

    clusters: Annotated[
        int | None, Method("Clusters N; none takes the student's number of routed experts.")
    ] = Field(None, ge=1)
    weights: Annotated[
        Literal["gate", "up", "gate+up"], Method("First FFN matrix whose rows are the neurons.")
    ] = "gate"
    normalize: Annotated[
        bool, Method("L2-normalise the rows first; without it (literal) one cluster may take nearly all.")
    ] = True
    features: Annotated[
        Literal["weights", "coactivation"] | None,
        Method(
            "What neurons are compared by: their weights (literal), or their activations on D_A; "
            "none takes activations where there is a --split."
        ),
    ] = None
    coactivation_tokens: Annotated[
        int, Method("Teacher tokens of D_A that make a neuron's activation profile.")
    ] = Field(1024, ge=2)
    assign: Annotated[
        Literal["kmeans", "random"],
        Method("Balanced k-means, or random clusters of the same sizes (the ablation without Stage I)."),
    ] = "kmeans"
    iterations: Annotated[int, Method("Most k-means iterations of one start.")] = Field(25, ge=1)
    restarts: Annotated[int, Method("k-means starts; the best one is kept.")] = Field(1, ge=1)
    tolerance: Annotated[
        float, Method("Stop when an iteration gains less than this share of the objective.")
    ] = Field(1e-4, ge=0)
    strict_sizes: Annotated[
        bool, Method("Refuse a teacher whose FFN width N does not divide (else sizes differ by one).")
    ] = False
    stability: Annotated[
        bool, Method("Cluster a second time with another seed, to report how alike the two are.")
    ] = True
    xi: Annotated[float, Method("Temperature of the softmax over clusters that makes p_T.")] = Field(
        1.0, gt=0
    )
    router_map: Annotated[
        Literal["ridge", "random-projection", "truncate", "keep"],
        Method("How centroids become router rows; keep leaves the student's own."),
    ] = "ridge"
    match: Annotated[
        Literal["hungarian", "index"],
        Method("Clusters go to the experts they correlate with, or to those of the same number (literal)."),
    ] = "hungarian"
    router_blend: Annotated[
        float, Method("omega: share of the new router row in the blend; 1 replaces the old one (literal).")
    ] = Field(0.1, ge=0, le=1)
    ridge_penalty: Annotated[
        float, Method("Ridge penalty as a share of the mean square of the student's hidden states.")
    ] = Field(1e-3, gt=0)
    compare_maps: Annotated[
        bool,
        Method("Report the held-out recall of every router map and both matchings; changes no router row."),
    ] = True
    held_out: Annotated[float, Method("Share of the D_A texts kept for the report's R^2 and recall.")] = (
        Field(0.1, gt=0, lt=1)
    )
    max_tokens: Annotated[int, Method("Most student tokens of D_A that are read.")] = Field(500_000, ge=1)
    max_length: Annotated[int, Method("Longest text, in tokens; the rest of a longer one is not read.")] = (
        Field(2048, ge=2)
    )
    dtype: Dtype = "auto"
    batch_tokens: Annotated[int, Run("Padded tokens in one forward pass.")] = Field(8192, ge=1)
    processes: Annotated[
        int, Run("Processes that cluster layers side by side; they share the cores and each holds a layer.")
    ] = Field(1, ge=1)
    attn_implementation: AttnImplementation = None
    experts_implementation: ExpertsImplementation = None
    device: Device = "auto"
    teacher_device: TeacherDevice = None
