"""`padd plan` on configurations alone: no weights are there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2Config, Qwen3MoeConfig

from padd_artifacts.errors import UsageError
from padd_cli.flags.config import preset_names
from padd_cli.pipeline.launched import is_sharded, launcher
from padd_stages.lib.planning import gpus
from padd_stages.lib.planning.gpus import Gpus, Work, parse_gpus
from padd_stages.lib.runtime.launcher import Launch
from padd_stages.train.budget import budget as train_budget
from padd_stages.train.options import TrainInputs, TrainOptions
from padd_stages.warmup.budget import budget as warmup_budget
from padd_stages.warmup.options import WarmupInputs, WarmupOptions

Padd = Callable[..., Any]
PUBLISHED = Path(__file__).parents[2] / "published"  # config.json of models on the hub
COMMON = {"vocab_size": 4096, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 2}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        dtype="bfloat16",
        hidden_size=512,
        intermediate_size=2048,
        **COMMON,
    ).save_pretrained("teacher")
    Qwen3MoeConfig(
        architectures=["Qwen3MoeForCausalLM"],
        dtype="bfloat16",
        hidden_size=512,
        moe_intermediate_size=256,
        num_experts=16,
        num_experts_per_tok=2,
        head_dim=64,
        **COMMON,
    ).save_pretrained("student")


def plan(padd: Padd, gpus: str, *argv: str) -> tuple[int, dict[str, Any]]:
    models = ("--teacher", "teacher", "--student", "student")
    result = padd("plan", "paper-qwen", *models, "--gpus", gpus, "--json", *argv)
    assert result.code in (0, 1), result.err
    return result.code, {step["step"]: step for step in json.loads(result.out)["steps"]}


@pytest.mark.usefixtures("models")
def test_small_models_fit_and_every_step_that_runs_one_is_planned(padd: Padd) -> None:
    code, steps = plan(padd, "2xH100-80GB", "--launch", "fsdp2")
    assert code == 0
    assert {"cluster", "warmup", "train", "eval/trained", "analyze-experts"} <= set(steps)
    train = steps["train"]
    assert (train["processes"], train["sharded"], train["fits"]) == (2, True, True)
    assert train["models"]["student"]["total"] > train["models"]["student"]["active"]
    assert set(train["phases"]) == {"rollout", "old policy and teacher", "update"}
    assert all(part["seconds"] > 0 for part in train["work_of_a_step"].values())


@pytest.mark.usefixtures("models")
def test_what_does_not_fit_is_an_exit_code_with_the_options_that_make_it_fit(padd: Padd) -> None:
    _, roomy = plan(padd, "1xH100-80GB")
    short = 0.9 * roomy["train"]["peak"] / 0.92
    code, steps = plan(padd, f"1xH100-{short:.2f}GB")
    assert code == 1
    assert not steps["train"]["fits"]
    assert steps["train"]["cures"]
    told = padd(
        "plan",
        "paper-qwen",
        "--teacher",
        "teacher",
        "--student",
        "student",
        "--gpus",
        f"1xH100-{short:.2f}GB",
    )
    assert f"train does not fit: it fits with {' '.join(steps['train']['cures'])}" in " ".join(
        told.out.split()
    )


@pytest.mark.usefixtures("models")
def test_sharding_divides_what_is_held(padd: Padd) -> None:
    whole, parts = (plan(padd, "4xH100-80GB", "--launch", name)[1] for name in ("multi-gpu", "fsdp2"))
    weights = [steps["train"]["held"]["student: weights"] for steps in (whole, parts)]
    assert weights[0] == pytest.approx(4 * weights[1], rel=0.1)


@pytest.mark.usefixtures("models")
def test_8_bit_moments_take_2_bytes_a_trained_weight(tmp_path: Path) -> None:
    models = {"student": "student", "teacher": "teacher", "split": tmp_path}
    launch = Launch(1, sharded=False)
    for name in ("adamw", "adamw-8bit"):
        trained = train_budget(TrainInputs(**models), TrainOptions(optimizer=name), launch)
        warmed = warmup_budget(
            WarmupInputs(**models, clusters=tmp_path),
            WarmupOptions(optimizer=name, trainable="all"),
            launch,
        )
        for budget in (trained, warmed):
            moments = budget.held[f"student: moments ({name})"]
            share = moments / budget.held["student: weights"]
            assert share == pytest.approx({"adamw": 8.0, "adamw-8bit": 2 + 1 / 32}[name] / 4, rel=0.01)
            assert budget.disk["checkpoints"] > moments


def test_gpus_are_named_by_number_name_and_size() -> None:
    assert parse_gpus("8xH100-80GB") == Gpus(8, "H100", 80.0)
    assert parse_gpus("a100-40GB") == Gpus(1, "A100", 40.0)
    assert Gpus(1, "UNKNOWN", 10.0).seconds(Work(1.0)) is None
    with pytest.raises(UsageError, match="8xH100-80GB"):
        parse_gpus("eight H100s")


def test_short_names_start_accelerate_with_padds_configurations() -> None:
    words = launcher("fsdp2")
    assert words[1] == "launch"
    assert Path(words[words.index("--config_file") + 1]).is_file()
    assert is_sharded("fsdp2")
    assert is_sharded(f"accelerate launch --config_file {words[words.index('--config_file') + 1]}")
    assert not is_sharded("multi-gpu")
    assert not is_sharded("torchrun --nproc-per-node 2")


@pytest.mark.usefixtures("models")
def test_a_run_refuses_what_cannot_fit_before_its_first_step_and_warns_of_what_may_not(
    padd: Padd, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, steps = plan(padd, "1xH100-80GB")
    most_held = max(sum(step["held"].values()) for step in steps.values())
    argv = ("run", "paper-qwen", "--teacher", "teacher", "--student", "student", "--out", "out")

    def told(usable: float) -> str:
        monkeypatch.setattr(gpus, "present_gpus", lambda: Gpus(1, "H100", usable / gpus.USABLE))
        result = padd(*argv)
        assert result.code == 1  # there are no problems to split
        return " ".join(result.err.split())

    assert "holds" in told(0.9 * most_held)
    assert "so the run would end there; " in told(0.9 * most_held)
    warned = told(1.1 * most_held)
    assert "may run out of memory" in warned
    assert "the run would end there" not in warned
    assert not Path("out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(set(preset_names()) - {"toy"}))
def test_every_step_of_the_presets_fits_the_gpus_that_they_are_for(
    padd: Padd, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    monkeypatch.chdir(PUBLISHED)
    machine = "1xH100-80GB" if preset == "single-gpu" else "8xH100-80GB"
    result = padd("plan", preset, "--gpus", machine, "--json")
    steps = json.loads(result.out)["steps"]
    assert result.code == 0, [step for step in steps if not step["fits"]]
    assert all(step["peak"] > 5 for step in steps)
