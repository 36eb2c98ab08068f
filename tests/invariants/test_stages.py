"""PADD with everything at zero is GRPO to the bit, and each stage alone changes what it should and nothing else."""

from dataclasses import replace

import pytest
import torch

from padd_stages.train import collecting
from padd_stages.train.update import Updater

NOTHING = {"kappa": 0.0, "drift_lambda": 0.0, "eta": 0.0, "gamma": 0.0, "kd_weight": 0.0}


def same(left, right):
    assert left.keys() == right.keys()
    return [name for name in left if not torch.equal(left[name], right[name])] == []


def test_padd_without_any_stage_takes_the_steps_of_grpo(trained, weights):
    grpo = weights(trained("grpo", steps=3))
    assert same(grpo, weights(trained("padd", preset="padd", steps=3, **NOTHING)))
    assert not same(grpo, weights(trained("one step less", steps=2)))


def test_rspo_without_drift_is_gmpo(trained, weights):
    """A floor of 1 holds every weight at 1."""
    gmpo, rspo = trained("gmpo", preset="gmpo"), trained("rspo", preset="rspo", router_shift_floor=1.0)
    assert same(weights(gmpo), weights(rspo))


def test_stage_2_alone_adds_its_term(trained, weights):
    common = {"steps": 1, "num_iterations": 1}
    grpo, kd = trained("grpo", **common), trained("kd", **common, kd_weight=1.0)
    before, after = (run.jsonl("metrics.jsonl")[0] for run in (grpo, kd))
    changed = {name for name in after if after[name] != before.get(name)}
    assert all(name.startswith(("kd/", "temperature/", "update/")) or name == "grad_norm" for name in changed)
    assert after["kd/loss"] > 0
    assert not same(weights(grpo), weights(kd))
    assert weights(kd)["router bias"].abs().max() == 0


def test_stage_3_alone_starts_with_the_second_update(trained, weights):
    """Nothing has drifted before it: PR-GRPO of one update would be GRPO (and is refused)."""
    drift = {"drift_lambda": 100.0, "drift_units": "raw"}
    grpo, pr = trained("grpo", steps=1), trained("pr", steps=1, **drift)
    row = pr.jsonl("metrics.jsonl")[0]
    assert row["drift/weight_mean"] < 0.98
    assert not same(weights(grpo), weights(pr))
    assert weights(pr)["router bias"].abs().max() == 0
    # relative units have no unit before the second update of the first rollout has been seen
    relative = trained("relative", steps=1, drift_lambda=100.0)
    assert same(weights(grpo), weights(relative))


def test_stage_4_alone_moves_the_bias_after_the_last_update(trained, weights):
    grpo, balanced = trained("grpo", steps=1), trained("balanced", steps=1, eta=0.1, gamma=0.1)
    plain, moved = weights(grpo), weights(balanced)
    bias = moved.pop("router bias")
    assert plain.pop("router bias").abs().max() == 0
    assert bias.abs().max() > 1e-3
    assert same(plain, moved)


@pytest.mark.parametrize("option", [{"router_replay": "old"}, {"beta_ref": 1.0}, {"drift_grad": True}])
def test_the_variants_act(trained, weights, option):
    base = {"drift_lambda": 3.0, "drift_units": "raw"}
    plain, changed = trained("plain", **base), trained("changed", **base | option)
    assert not same(weights(plain), weights(changed))


def test_rollout_replay_changes_nothing_in_fp32_until_an_update_has_moved_the_router(trained, weights):
    """The reference sampler routes as the trainer does; after an update the trainer would not."""
    plain, replayed = (
        trained(name, router_replay=name, num_iterations=1, steps=1) for name in ("off", "rollout")
    )
    (row,) = replayed.jsonl("metrics.jsonl")
    assert row["sampling/routes_differ"] == 0
    assert "sampling/routes_differ" not in plain.jsonl("metrics.jsonl")[0]
    assert same(weights(plain), weights(replayed))
    grpo, r2, r3 = (weights(trained(name, preset=name)) for name in ("grpo", "r2", "r3"))
    off = {name: float((r2[name] - r3[name]).abs().max()) for name in r2}
    assert max(off.values()) < 1e-5, "the order of sums alone"
    assert max(float((r2[name] - grpo[name]).abs().max()) for name in r2) > 1e-3


def test_the_reference_policy_is_the_initial_student(trained):
    """With one update a rollout its forward is the old policy's own; only the reference lies further back."""
    first, second = trained("ref", beta_ref=1.0, num_iterations=1).jsonl("metrics.jsonl")
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert second["kl"] > 1e-4
    assert second["policy_kl"] == pytest.approx(0, abs=1e-6)


def test_a_trace_in_fp16_says_what_it_costs(trained):
    whole, half = (trained(kind, preset="padd", steps=1, trace_dtype=kind) for kind in ("fp32", "fp16"))
    before, after = (run.jsonl("metrics.jsonl")[0] for run in (whole, half))
    assert "drift/trace_error" not in before
    assert 0 < after["drift/trace_error"] < 1e-3
    assert abs(after["drift/gamma_mean"] - before["drift/gamma_mean"]) <= after["drift/trace_error"]


def test_the_label_of_stage_3_stands_in_every_row(trained):
    rows = trained("pr", drift_lambda=0.1).jsonl("metrics.jsonl")
    assert rows[0]["stage3"] == "inactive"  # relative units start with the second rollout
    assert {row["stage3"] for row in trained("grpo").jsonl("metrics.jsonl")} == {"off"}


def test_every_mini_batch_gets_an_update_of_its_own(trained, monkeypatch):
    """Prompts are dealt out in turn; each update sees its own and no others."""
    updates, update = [], Updater.update

    def counting(self, passes, step, *, is_first):
        updates.append(({member // 2 for old in passes for member in old.members}, is_first))
        return update(self, passes, step, is_first=is_first)

    monkeypatch.setattr(Updater, "update", counting)
    trained("mini", steps=1, prompts_per_step=4, num_generations=2, mini_batches=2, num_iterations=2)
    assert updates == [({0, 2}, True), ({1, 3}, False), ({0, 2}, False), ({1, 3}, False)]


def test_a_correction_of_the_reference_sampler_changes_next_to_nothing(trained, weights, monkeypatch):
    """In fp32 it is the old policy; of a sampler that says otherwise the tokens are dropped."""
    plain, corrected = (trained(name, steps=1, rollout_correction=name) for name in ("none", "icepop"))
    row = corrected.jsonl("metrics.jsonl")[0]
    assert row["sampling/importance_sampling_ratio/max"] == pytest.approx(1, abs=1e-4)
    assert row["sampling/corrected"] == 0
    before, after = weights(plain), weights(corrected)
    assert max(float((before[name] - after[name]).abs().max()) for name in before) < 1e-5
    sample = collecting.respond

    def another_policy(*arguments, **keywords):
        found = sample(*arguments, **keywords)
        return [replace(r, logprobs=tuple(value - 2.0 for value in r.logprobs)) for r in found]

    monkeypatch.setattr(collecting, "respond", another_policy)
    dropped = trained("dropped", steps=1, rollout_correction="icepop")
    row = dropped.jsonl("metrics.jsonl")[0]
    assert row["sampling/corrected"] == 1
    assert row["grad_norm"] == 0


@pytest.mark.parametrize("option", [{"entropy_coef": 0.3}, {"router_aux_loss_coef": 0.3}], ids=str)
def test_a_further_term_acts(trained, weights, option):
    plain, changed = trained("plain", steps=1), trained("changed", steps=1, **option)
    assert not same(weights(plain), weights(changed))
    row = changed.jsonl("metrics.jsonl")[0]
    assert ("aux_loss" in row) == ("router_aux_loss_coef" in option)
    assert row.get("aux_loss", 2.0) > 1.9, "K = 2 where it is even"


def test_an_entropy_bonus_keeps_the_entropy_up(trained):
    """Two updates of one rollout: the second sees what the first has done."""
    low, high = (trained(str(c), steps=4, entropy_coef=c).jsonl("metrics.jsonl")[-1] for c in (0.0, 3.0))
    assert high["entropy"] > low["entropy"]


def test_groups_that_teach_nothing_are_replaced(trained):
    """The grader goes by length; of two responses many groups agree."""
    options = {"num_generations": 2, "prompts_per_step": 4, "steps": 2}
    plain, dynamic = (trained(str(n), dynamic_sampling=n, **options) for n in (0, 6))
    before, after = (run.jsonl("metrics.jsonl") for run in (plain, dynamic))
    assert max(row["frac_reward_zero_std"] for row in before) > 0
    assert [row["frac_reward_zero_std"] for row in after] == [0, 0]
    assert all(row["sampling/prompts_drawn"] % 4 == 0 for row in after)
    assert max(row["sampling/prompts_drawn"] for row in after) > 4
    assert "sampling/prompts_drawn" not in before[0]


def test_too_few_groups_that_teach_are_filled_up(trained, monkeypatch):
    monkeypatch.setattr(collecting.Collector, "_teaching", lambda self, found: [1])
    run = trained("few", steps=1, prompts_per_step=4, num_generations=2, dynamic_sampling=2, log_samples=99)
    assert run.jsonl("metrics.jsonl")[0]["sampling/prompts_drawn"] == 12
    assert len(run.jsonl("samples.jsonl")) == 8
