"""`padd export`: a student as a stock checkpoint, its router bias in ordinary weights (docs/METHOD.md, section 7)."""

from typing import Any

import torch
from torch import Tensor

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.export.options import ExportInputs, ExportOptions
from padd_stages.lib.data.prompts import prompt_ids
from padd_stages.lib.data.sequences import TokenSequence, collate, hold_out, micro_batches
from padd_stages.lib.models.bias_folding import (
    fit_constants,
    fold_bias,
    native_biases,
    watch_routers,
    write_bias,
)
from padd_stages.lib.models.loading import LanguageModel, load_model, model_parent
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.policy import run_body
from padd_stages.lib.models.saving import save_stock_model
from padd_stages.lib.runtime.devices import pick_device
from padd_stages.lib.runtime.reporter import SILENT, Reporter
from padd_stages.lib.runtime.seeds import epoch_order

HELD_OUT = 1 / 8  # of the texts: what a fold is judged by


def plan(inputs: ExportInputs, options: ExportOptions) -> Plan:
    """Open the student's configuration and the split."""
    parents = {"student": model_parent(inputs.student)}
    if inputs.split is not None:
        parents["split"] = open_artifact(inputs.split, "split").as_parent()
    return Plan("export", options, parents)


def run(
    inputs: ExportInputs, options: ExportOptions, output: Output, reporter: Reporter = SILENT
) -> Artifact:
    """Write a checkpoint that any program loads, and a report of how often it chooses the student's experts."""
    output.check()
    plan_ = plan(inputs, options)
    with ArtifactWriter(output, plan_) as writer:
        reporter.phase("loading the student")
        student = load_model(
            inputs.student, dtype=options.dtype, device=pick_device(options.device), moe=True
        )
        report = _move_bias(student, inputs, options, reporter)
        reporter.phase("writing")
        save_stock_model(writer.folder, student)
        writer.write_json("report.json", report)
        writer.summary.update({name: value for name, value in report.items() if name != "layers"})
    return writer.artifact


def _move_bias(
    student: LanguageModel, inputs: ExportInputs, options: ExportOptions, reporter: Reporter
) -> dict[str, Any]:
    """Move the bias into the weights; return how, and the measured agreement."""
    adapter = student.adapter
    assert adapter is not None  # moe=True
    if adapter.words is not None:
        raise PaddError(
            "this student routes by words (StableMoE), which no stock checkpoint does, so another model would be "
            "written; use it through padd, or train without --stable-moe."
        )
    if not bool(adapter.bias.any()):
        return {"bias": "none"}
    places = native_biases(adapter)
    if places is not None:
        write_bias(adapter, places)
        return {"bias": "written"}
    if inputs.split is None:
        raise UsageError(
            "this student's family has no router bias of its own, so padd's must be folded into the routers' weights, "
            "and that is fitted to text; name a split artifact with --split."
        )
    fitted, judged = hold_out(_texts(student, inputs, options), HELD_OUT)
    reporter.phase("fitting the fold", len(fitted))
    constants = fit_constants(
        adapter, lambda see: _read(student, fitted, options, reporter, see), options.ridge_penalty
    )
    return {
        "bias": "folded",
        "tokens": sum(map(len, fitted)),
        "held_out_tokens": sum(map(len, judged)),
        **_measure_fold(student, adapter, constants, judged, options, reporter),
    }


def _measure_fold(
    student: LanguageModel,
    adapter: MoEAdapter,
    constants: list[Tensor],
    texts: list[TokenSequence],
    options: ExportOptions,
    reporter: Reporter,
) -> dict[str, Any]:
    """Fold the bias; on held-out texts, compare the experts chosen with the student's, and so without any bias."""
    reporter.phase("held-out texts", 3 * len(texts))
    bias = adapter.bias
    wanted = _choices(student, texts, options, reporter)
    adapter.set_bias(torch.zeros_like(bias))
    dropped = _agreement(wanted, _choices(student, texts, options, reporter))
    adapter.set_bias(bias)
    fold_bias(adapter, constants)
    folded = _agreement(wanted, _choices(student, texts, options, reporter))
    return {
        "same_top_k": _mean(folded),
        "same_top_k_without_bias": _mean(dropped),
        "layers": [
            {"decoder_layer": layer.layer_index, "same_top_k": same, "same_top_k_without_bias": without}
            for layer, same, without in zip(adapter.layers, folded, dropped, strict=True)
        ],
    }


def _texts(student: LanguageModel, inputs: ExportInputs, options: ExportOptions) -> list[TokenSequence]:
    """Tokenise problems of D_A with their worked solutions, in the seed's random order, up to ``max_tokens``."""
    assert inputs.split is not None
    rows = open_artifact(inputs.split, "split", check=False).jsonl("a.jsonl")
    texts: list[TokenSequence] = []
    for index in epoch_order(options.seed, 0, len(rows)):
        row, tokenizer = rows[index], student.tokenizer
        ids = prompt_ids(tokenizer, row["problem"], system=options.system, thinking=options.thinking)
        solution = tokenizer(row.get("solution") or "", add_special_tokens=False)["input_ids"]
        prompt = tuple(ids[: options.max_length])
        texts.append(TokenSequence(prompt, tuple(solution[: options.max_length - len(prompt)])))
        if sum(map(len, texts)) >= options.max_tokens:
            break
    if len(texts) < 2:
        raise UsageError(
            f"D_A of {inputs.split} gives {len(texts)} texts within --max-tokens and 2 are needed, one to fit the "
            "fold and one to judge it; raise --max-tokens or split more problems."
        )
    return texts


@torch.no_grad()
def _read(
    student: LanguageModel, texts: list[TokenSequence], options: ExportOptions, reporter: Reporter, see: Any
) -> None:
    """Run one forward over the texts; `see(m, hidden, indices)` gets every layer's tokens without the padding."""
    assert student.adapter is not None
    for members in micro_batches([len(text) for text in texts], options.batch_tokens):
        batch = collate([texts[i] for i in members], student.pad_id, student.model.device)
        real = batch.attention_mask.flatten().bool()

        def of_text(m: int, hidden: Tensor, indices: Tensor, real: Tensor = real) -> None:
            see(m, hidden[real], indices[real])

        with watch_routers(student.adapter, of_text):
            run_body(student.model, batch.input_ids, batch.attention_mask)
        reporter.advance(len(members))


def _choices(
    student: LanguageModel, texts: list[TokenSequence], options: ExportOptions, reporter: Reporter
) -> list[Tensor]:
    """Return the chosen experts (tokens, K) of each layer, sorted by number."""
    assert student.adapter is not None
    seen: list[list[Tensor]] = [[] for _ in student.adapter.layers]
    _read(
        student,
        texts,
        options,
        reporter,
        lambda m, _, indices: seen[m].append(indices.sort(dim=-1).values.to("cpu", torch.int16)),
    )
    return [torch.cat(parts) for parts in seen]


def _agreement(wanted: list[Tensor], got: list[Tensor]) -> list[float]:
    """Compute each layer's share of tokens whose top-K set is the same."""
    return [float((a == b).all(-1).double().mean()) for a, b in zip(wanted, got, strict=True)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
