"""Models kept in fp32 and computed in bf16 on one process: of every family the numbers of the model in bf16."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from padd_stages.lib.models.loading import load_model
from padd_stages.lib.models.policy import Head, Policy
from padd_stages.lib.models.saving import save_model
from padd_stages.lib.models.trained import load_trained
from padd_stages.lib.runtime.optimization import UpdateGuard, make_optimizer
from padd_stages.lib.runtime.processes import Processes, start_processes
from padd_stages.lib.runtime.sharding import gather, gather_state, kept_gathered
from padd_stages.toy.tokenizer import build_tokenizer

CLOSE = 0.05  # of a logit, on average: bf16 keeps 8 bits, and a token may take another expert


@pytest.fixture
def processes() -> Iterator[Processes]:
    with start_processes("cpu", mixed=True) as processes:
        yield processes


@pytest.fixture
def saved(tmp_path, tiny, any_family) -> str:
    tiny(any_family).bfloat16().save_pretrained(tmp_path / "model")
    build_tokenizer(1).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def logits(hidden: Tensor, head: Head) -> Tensor:
    return nn.functional.linear(hidden, head.weight, head.bias)


def run(policy: Policy, ids: Tensor) -> Tensor:
    mask = torch.ones_like(ids)
    return policy(ids, mask, mask.bool(), logits)


def test_every_family_computes_in_bf16_what_is_kept_in_fp32(saved, processes, ids):
    _, policy = load_trained(saved, processes, "auto")
    native = Policy(load_model(saved).model)
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert all(isinstance(p, DTensor) for p in policy.parameters())
    found = run(policy, ids)
    ours, theirs = found.detach(), run(native, ids).detach()
    assert ours.dtype == torch.bfloat16
    assert float((ours - theirs).abs().mean()) < CLOSE * float(theirs.abs().mean())
    found.float().sin().sum().backward()
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert len(gradients) > 0.9 * len(list(policy.parameters()))


def test_routers_compute_in_fp32(tmp_path, tiny, family, processes, ids):
    """Of weights that bf16 cannot hold, on the hidden states as they are."""
    tiny(family).save_pretrained(tmp_path / "model")
    build_tokenizer(1).save_pretrained(tmp_path / "model")
    loaded, policy = load_trained(str(tmp_path / "model"), processes, "bfloat16")
    adapter = loaded.adapter
    assert adapter is not None
    with torch.no_grad():
        for m in range(adapter.num_layers):  # the update that a bf16 weight would lose
            router = adapter.router_weight(m)
            router.to_local().add_(1e-4 * torch.randn(router.shape))
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    handles = [
        layer.router.register_forward_hook(
            lambda module, args, _, m=m: seen.update({m: args[0].reshape(-1, args[0].shape[-1])})
        )
        for m, layer in enumerate(adapter.layers)
    ]
    recorded: dict[int, Tensor] = {}
    with torch.no_grad(), adapter.observe(lambda m, found, _: recorded.update({m: found.clone()})):
        run(policy, ids)
    for handle in handles:
        handle.remove()
    for m, layer in enumerate(adapter.layers):
        bias = getattr(layer.router, "bias", None)
        expected = nn.functional.linear(
            seen[m].float(), gather(adapter.router_weight(m)), None if bias is None else gather(bias)
        )
        torch.testing.assert_close(recorded[m], expected, rtol=1e-5, atol=1e-5)


def test_an_update_moves_what_bf16_would_lose_and_is_saved_in_bf16(tmp_path, tiny, processes, ids):
    tiny("qwen3_moe").bfloat16().save_pretrained(tmp_path / "model")
    build_tokenizer(1).save_pretrained(tmp_path / "model")
    loaded, policy = load_trained(str(tmp_path / "model"), processes, "auto")
    guard = UpdateGuard(
        make_optimizer(policy.parameters(), learning_rate=1e-6, weight_decay=0.0), 1.0, processes
    )
    before = run(policy, ids).detach()
    for count in range(3):
        with kept_gathered(policy), torch.no_grad():
            first, second = run(policy, ids), run(policy, ids)
        assert torch.equal(first, second)
        assert torch.equal(first, before) == (count == 0), "a gathered copy is of the weights of before"
        run(policy, ids).float().square().sum().backward()
        metrics = guard.step(1e-2 if count == 0 else 1e-6)
        assert metrics["update/moved"] > 0.9
    kept = gather_state(loaded.model, keep=True)
    save_model(tmp_path / "saved", loaded, gather_state(loaded.model, keep=True, dtypes=loaded.dtypes))
    again = load_model(str(tmp_path / "saved")).model
    assert again.config.dtype == torch.bfloat16
    for name, value in again.state_dict().items():
        assert torch.equal(value, kept[name].to(value.dtype)), name
        assert value.dtype == torch.bfloat16, name


def bf16_guard() -> tuple[nn.Linear, UpdateGuard]:
    layer = nn.Linear(64, 64, dtype=torch.bfloat16)
    optimizer = make_optimizer(layer.parameters(), learning_rate=1.0, weight_decay=0.0)
    return layer, UpdateGuard(optimizer, 1.0, Processes(torch.device("cpu")))


def update(layer: nn.Linear, guard: UpdateGuard, rate: float) -> dict[str, Any]:
    layer(torch.ones(2, 64, dtype=layer.weight.dtype)).square().sum().backward()
    return guard.step(rate)


def test_a_run_whose_first_updates_move_nothing_is_stopped():
    from padd_artifacts.errors import PaddError

    torch.manual_seed(0)
    layer, guard = bf16_guard()
    for _ in range(9):
        assert update(layer, guard, 1e-6)["update/moved"] < 0.1
    with pytest.raises(PaddError, match=r"the first 10 updates changed \d\.\d% of the weights"):
        update(layer, guard, 1e-6)


def test_updates_after_the_first_ten_may_be_small():
    torch.manual_seed(0)
    layer, guard = bf16_guard()
    for count in range(12):
        moved = update(layer, guard, 0.1 if count < 10 else 1e-9)["update/moved"]
        assert (moved > 0.5) == (count < 10)


def test_what_an_update_changed_is_counted_of_the_weights_with_a_gradient():
    layer = nn.Linear(8, 4)
    optimizer = make_optimizer(layer.parameters(), learning_rate=1.0, weight_decay=0.0)
    guard = UpdateGuard(optimizer, 1e9, Processes(torch.device("cpu")))
    layer.weight.data.fill_(1.0), layer.bias.data.fill_(1.0)
    layer(torch.tensor([[1.0] * 4 + [0.0] * 4])).sum().backward()
    metrics = guard.step(0.01)  # Adam's first step has the size of the learning rate
    assert metrics["update/moved"] == 1.0
    assert metrics["update/relative"] == pytest.approx(0.01, rel=1e-3)
    layer(torch.full((1, 8), float("nan"))).sum().backward()
    assert all(str(guard.step(0.01)[name]) == "nan" for name in ("update/moved", "update/relative"))


def test_fp16_is_refused(tmp_path, tiny):
    from padd_artifacts.errors import UsageError
    from padd_stages.lib.models.trained import is_mixed

    model: Any = tiny("qwen3_moe").half()
    model.save_pretrained(Path(tmp_path))
    with pytest.raises(UsageError, match="is in float16"):
        is_mixed(str(tmp_path), "auto")
    assert is_mixed(str(tmp_path), "bfloat16")
    assert not is_mixed(str(tmp_path), "float32")


def test_weights_in_bf16_whose_configuration_does_not_say_so_are_refused(tmp_path, tiny):
    import json

    from padd_artifacts.errors import PaddError

    tiny("qwen3_moe").bfloat16().save_pretrained(tmp_path)
    build_tokenizer(1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    alone = Processes(torch.device("cpu"))
    with pytest.raises(PaddError, match=r"in torch.bfloat16 and its config.json does not say so"):
        load_trained(str(tmp_path), alone, "auto")
    load_trained(str(tmp_path), alone, "float32")


def test_a_resumed_run_does_not_watch_its_start_again():
    torch.manual_seed(0)
    layer, guard = bf16_guard()
    for _ in range(10):
        update(layer, guard, 0.1)
    other, resumed = bf16_guard()
    resumed.restore(guard.state())
    for _ in range(11):
        assert update(other, resumed, 1e-9)["update/moved"] < 0.1
