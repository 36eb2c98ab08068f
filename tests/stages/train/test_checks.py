"""Options that cannot act are refused in one sentence with what is wrong and what to do."""

import sys
from pathlib import Path

import pytest

from padd_artifacts.errors import PaddError, UsageError
from padd_stages.train.checks import check_method, likely_mistakes
from padd_stages.train.log import stage3_warning
from padd_stages.train.options import TrainInputs, TrainOptions

OFF = {"kd_weight": 0.0, "drift_lambda": 0.0, "eta": 0.0, "gamma": 0.0}


def check(student, **options):
    inputs = TrainInputs(student=str(student), split=Path("unread"))
    check_method(inputs, TrainOptions(**(OFF | options)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kd_weight": 1.0}, ["--kd-weight 1.0", "--teacher", "--kd-weight 0"]),
        ({"drift_lambda": 0.1, "num_iterations": 1}, ["--drift-lambda 0.1", "--num-iterations 2"]),
        ({"router_shift": "before-clip", "num_iterations": 1}, ["--router-shift", "--num-iterations 2"]),
        ({"router_replay": "old", "num_iterations": 1}, ["--router-replay old", "--router-replay off"]),
        ({"router_shift": "before-clip", "drift_lambda": 0.1}, ["--drift-lambda 0 (rspo)"]),
        ({"router_shift": "after-clip"}, ["dapo", "--loss-type gmpo"]),
        ({"router_shift": "before-clip", "trace_dtype": "fp16"}, ["logarithms", "--trace-dtype fp32"]),
        ({"drift_grad": True}, ["--drift-grad", "raise --drift-lambda"]),
        ({"rollout_correction": "tis", "loss_type": "gspo"}, ["weighs tokens", "--rollout-correction mis"]),
        ({"lora_r": 4}, ["--lora-r", "--trainable all", "take --trainable lora"]),
        ({"trainable": "experts", "lora_target": ("routers",)}, ["--lora-target", "--trainable experts"]),
        ({"trainable": "lora", "lora_target": ()}, ["trains nothing"]),
    ],
)
def test_refused(pico, options, words):
    with pytest.raises(UsageError) as caught:
        check(pico.student, **options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        {"drift_lambda": 0.1},
        {"eta": 0.1},
        {"gamma": 0.1},
        {"router_shift": "before-clip"},
        {"router_replay": "old"},
    ],
)
def test_a_dense_student_has_no_router(pico, option):
    (name,) = option
    with pytest.raises(PaddError, match=rf"--{name.replace('_', '-')} .* is dense.*--preset grpo"):
        check(pico.teacher, **option)
    check(pico.student, **option)


@pytest.mark.parametrize(
    "options", [{"trainable": "experts"}, {"trainable": "routers"}, {"trainable": "lora"}], ids=str
)
def test_a_dense_student_has_no_experts_to_train(pico, options):
    with pytest.raises(PaddError, match=r"does not have, since it is dense; take --trainable all"):
        check(pico.teacher, **options)
    check(pico.student, **options)
    check(pico.teacher, trainable="lora", lora_target=("attention",))


def test_lora_without_peft_is_refused(pico, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"needs peft.*pip install 'padd\[lora\]'"):
        check(pico.student, trainable="lora")


def test_sampling_from_a_part_of_the_vocabulary_is_warned_about():
    (text,) = likely_mistakes(TrainOptions(top_p=0.9))
    assert "--top-p 0.9" in text


def test_a_learning_rate_at_which_factors_hardly_learn_is_warned_about():
    (text,) = likely_mistakes(TrainOptions(trainable="lora", learning_rate=1e-6))
    assert "--learning-rate 1e-06" in text
    assert likely_mistakes(TrainOptions(trainable="lora", learning_rate=1e-5)) == []


def test_what_can_act_passes(pico):
    check(pico.teacher)
    check(pico.student, num_iterations=1, eta=0.1)
    check(pico.student, num_iterations=1, mini_batches=2, drift_lambda=0.1)
    check(pico.student, loss_type="gmpo", router_shift="after-clip")


def test_a_range_that_never_clips_is_warned_about():
    assert likely_mistakes(TrainOptions(loss_type="gspo")) == []
    assert likely_mistakes(TrainOptions(loss_type="dapo", epsilon=0.2)) == []
    (text,) = likely_mistakes(TrainOptions(loss_type="gspo", epsilon=0.2, epsilon_high=0.2))
    assert "--epsilon 3e-4" in text


def test_a_stage_3_that_did_not_act_is_warned_about():
    options = TrainOptions(drift_lambda=0.1)
    report = {"mean_over_last": 20, "drift/weight_mean": 0.991, "stage3": "inactive"}
    text = stage3_warning(report, options)
    assert text is not None
    assert "0.991" in text
    assert "raise --drift-lambda (now 0.1)" in text
    saturated = stage3_warning(report | {"drift/weight_mean": 0.3, "stage3": "saturated"}, options)
    assert saturated is not None
    assert "lower --drift-lambda" in saturated
    assert stage3_warning(report | {"stage3": "active"}, options) is None
    assert stage3_warning({"mean_over_last": 20}, options) is None
