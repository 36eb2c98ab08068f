"""--trainable: what of the student a run changes, and that factors resume and end in the student's own matrices."""

import pytest
import torch
from safetensors.torch import load_file

from padd_artifacts.writer import Output
from padd_stages.train import loop
from padd_stages.train import stage as train
from padd_stages.train.options import TrainInputs, TrainOptions

SMALL = {
    "steps": 3,
    "prompts_per_step": 2,
    "num_generations": 2,
    "max_completion_length": 6,
    "learning_rate": 1e-2,
    "lr_warmup_steps": 0,
    "checkpoint_every": 1,
    "device": "cpu",
    "workers": 1,
}
LORA = {"trainable": "lora", "lora_r": 2}


def inputs_of(pair):
    return TrainInputs(student=str(pair.student), teacher=str(pair.teacher), split=pair.split)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trainable": "experts"}, ["mlp.experts."]),
        ({"trainable": "routers"}, ["mlp.gate."]),
        (LORA, ["mlp.experts.", "self_attn."]),
        (LORA | {"lora_target": ("routers",)}, ["mlp.gate."]),
        ({"trainable": "all"}, [""]),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_is_chosen_changes_and_nothing_else(pico, tmp_path, length_grader, options, words):
    result = train.run(
        inputs_of(pico), TrainOptions(**SMALL | options | {"steps": 1}), Output(tmp_path / "out")
    )
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (pico.student, result.path))
    assert {name: value.dtype for name, value in after.items()} == {n: v.dtype for n, v in before.items()}
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert all(any(word in name for word in words) for name in changed)
    assert all(any(word in name for name in changed) for word in words)


def test_factors_resumed_from_a_checkpoint_are_those_of_a_run_without_a_break(
    pico_bf16, tmp_path, length_grader, monkeypatch
):
    inputs, options = inputs_of(pico_bf16), TrainOptions(**SMALL | LORA)
    whole = train.run(inputs, options, Output(tmp_path / "whole"))
    collect, rollouts = loop.Collector.collect, iter(range(99))

    def failing(*arguments):
        if next(rollouts) == 2:
            raise KeyboardInterrupt
        return collect(*arguments)

    monkeypatch.setattr(loop.Collector, "collect", failing)
    with pytest.raises(KeyboardInterrupt):
        train.run(inputs, options, Output(tmp_path / "cut"))
    resumed = train.run(inputs, options, Output(tmp_path / "cut", resume=True))
    assert resumed.manifest.digest == whole.manifest.digest
    assert {v.dtype for v in load_file(resumed.file("model.safetensors")).values()} == {torch.bfloat16}
    first = resumed.jsonl("metrics.jsonl")[0]
    assert first["sampling/sampling_logp_difference/mean"] < 0.05
    assert first["update/moved"] > 0.9
