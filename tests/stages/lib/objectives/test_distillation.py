import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from padd_stages.lib.objectives import chunked
from padd_stages.lib.objectives.chunked import chunked_kl, chunked_logprobs
from padd_stages.lib.objectives.distillation import kl_divergence

T, V_S, V_T, D_S, D_T, M = 11, 13, 17, 5, 7, 9
TOKEN_INPUTS = ("student_hidden", "teacher_hidden", "weight", "tau_teacher", "tau_student")


def problem(seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.randn(*shape, generator=g, dtype=dtype)

    inputs = {
        "student_hidden": rand(T, D_S).requires_grad_(),
        "student_head": rand(V_S, D_S).requires_grad_(),
        "teacher_hidden": rand(T, D_T),
        "teacher_head": rand(V_T, D_T),
        "weight": torch.rand(T, generator=g, dtype=dtype) * (torch.arange(T) != 4),
        "tau_teacher": 0.5 + torch.rand(T, generator=g, dtype=dtype),
        "tau_student": 0.5 + torch.rand(T, generator=g, dtype=dtype),
        "student_index": torch.randperm(V_S, generator=g)[:M],
        "teacher_index": torch.randperm(V_T, generator=g)[:M],
    }
    return inputs, rand(V_S).requires_grad_(), rand(V_T)


def plain(inputs, direction, student_bias=None, teacher_bias=None, caps=(None, None)):
    """Full logits, the shared words picked, softmax and KL written out."""
    sides = []
    for name, bias, cap in (("student", student_bias, caps[0]), ("teacher", teacher_bias, caps[1])):
        logits = inputs[f"{name}_hidden"] @ inputs[f"{name}_head"].T
        logits = logits if bias is None else logits + bias
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        index = inputs[f"{name}_index"]
        logits = logits if index is None else logits[:, index]
        e = torch.exp(logits / inputs[f"tau_{name}"][:, None])
        sides.append(e / e.sum(dim=1, keepdim=True))
    p, q = reversed(sides) if direction == "forward" else sides
    kl = (p * torch.log(p / q)).sum(dim=1)
    return (inputs["weight"] * kl).sum(), kl


def assert_equal_with_gradients(loss, expected, wanted):
    torch.testing.assert_close(loss, expected, atol=1e-9, rtol=0)
    grads = torch.autograd.grad(3.0 * loss, wanted)  # the factor: an incoming gradient other than 1
    for grad, right in zip(grads, torch.autograd.grad(3.0 * expected, wanted)):
        torch.testing.assert_close(grad, right, atol=1e-9, rtol=0)
        assert float(right.abs().max()) > 1e-3


@pytest.mark.parametrize("chunk", [1, 4, T, 100, None])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_shared_words(direction, chunk):
    inputs, _, _ = problem()
    loss, metrics = chunked_kl(**inputs, direction=direction, chunk=chunk)
    expected, kl = plain(inputs, direction)
    assert_equal_with_gradients(loss, expected, (inputs["student_hidden"], inputs["student_head"]))
    torch.testing.assert_close(metrics["kl"], kl.detach(), atol=1e-9, rtol=0)
    assert not metrics["kl"].requires_grad


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_biases_and_softcaps(direction):
    inputs, student_bias, teacher_bias = problem(1)
    loss, _ = chunked_kl(
        **inputs, direction=direction, student_bias=student_bias, teacher_bias=teacher_bias,
        student_softcap=2.5, teacher_softcap=3.5, chunk=3,
    )  # fmt: skip
    expected, _ = plain(inputs, direction, student_bias, teacher_bias, (2.5, 3.5))
    wanted = (inputs["student_hidden"], inputs["student_head"], student_bias)
    assert_equal_with_gradients(loss, expected, wanted)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("given", [False, True])
def test_all_student_words_are_the_first_of_the_teacher(direction, given):
    """The Qwen pair: the same order, a few more rows on one side."""
    inputs, student_bias, teacher_bias = problem(2)
    rows = torch.arange(V_S)
    inputs |= {"student_index": rows if given else None, "teacher_index": rows}
    loss, _ = chunked_kl(
        **inputs, direction=direction, student_bias=student_bias, teacher_bias=teacher_bias, chunk=4
    )
    expected, _ = plain(inputs, direction, student_bias, teacher_bias)
    wanted = (inputs["student_hidden"], inputs["student_head"], student_bias)
    assert_equal_with_gradients(loss, expected, wanted)


def test_unshared_rows_get_no_gradient():
    for index in (torch.arange(M), torch.arange(V_S - M, V_S)):
        inputs, _, _ = problem(3)
        inputs["student_index"] = index
        chunked_kl(**inputs, direction="reverse", chunk=4)[0].backward()
        touched = inputs["student_head"].grad.abs().sum(dim=1) > 0
        assert touched.nonzero().flatten().tolist() == index.tolist()


def test_equals_the_plain_function_with_one_vocabulary():
    inputs, _, _ = problem(4)
    inputs |= {"student_index": None, "teacher_index": torch.arange(V_S)}
    for direction in ("forward", "reverse"):
        _, metrics = chunked_kl(**inputs, direction=direction)
        logits = [inputs[f"{n}_hidden"] @ inputs[f"{n}_head"][:V_S].T for n in ("teacher", "student")]
        kl = kl_divergence(*logits, inputs["tau_teacher"], inputs["tau_student"], direction)
        torch.testing.assert_close(metrics["kl"], kl.detach(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("chunk", [1, T])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_clamped_token_counts_the_clamp_and_has_no_gradient(direction, chunk):
    inputs, _, _ = problem()
    wanted = [inputs["student_hidden"], inputs["student_head"]]
    _, kl = plain(inputs, direction)
    clamp = float(kl.detach().sort().values[T // 2 : T // 2 + 2].mean())  # between two tokens
    expected = (inputs["weight"] * kl.clamp(max=clamp)).sum()
    loss, metrics = chunked_kl(**inputs, direction=direction, clamp=clamp, chunk=chunk)
    assert_equal_with_gradients(loss, expected, wanted)
    torch.testing.assert_close(metrics["kl"], kl.detach(), atol=1e-9, rtol=0)


def test_kl_by_hand():
    teacher, student = (
        torch.tensor([[0.0, math.log(3.0)]]),
        torch.zeros(1, 2),
    )  # (1/4, 3/4) against (1/2, 1/2)
    one = torch.ones(1)
    forward = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    reverse = 0.5 * math.log(2.0) + 0.5 * math.log(2 / 3)
    assert float(kl_divergence(teacher, student, one, one, "forward")) == pytest.approx(forward, abs=1e-6)
    assert float(kl_divergence(teacher, student, one, one, "reverse")) == pytest.approx(reverse, abs=1e-6)
    hot = 2 * one  # the teacher's odds become sqrt(3)
    p = 3**0.5 / (1 + 3**0.5)
    tempered = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert float(kl_divergence(teacher, student, hot, one, "forward")) == pytest.approx(tempered, abs=1e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_gradcheck_kl(direction):
    inputs, bias, _ = problem(5)
    names = ("student_hidden", "student_head")
    for name in TOKEN_INPUTS:  # three tokens in chunks of two: gradcheck is slow
        inputs[name] = inputs[name][:3].detach().requires_grad_(name in names)

    def loss(hidden, head, bias):
        changed = inputs | {"student_hidden": hidden, "student_head": head}
        return chunked_kl(**changed, direction=direction, student_bias=bias, student_softcap=4.0, chunk=2)[0]

    assert torch.autograd.gradcheck(loss, (*(inputs[n] for n in names), bias))


@pytest.mark.parametrize("frozen", ["student_hidden", "student_head"])
def test_only_what_asks_for_a_gradient_gets_one(frozen):
    inputs, _, _ = problem(6)
    inputs[frozen] = inputs[frozen].detach()
    other = "student_head" if frozen == "student_hidden" else "student_hidden"
    inputs["teacher_head"] = inputs["teacher_head"].requires_grad_()
    loss, _ = chunked_kl(**inputs, direction="reverse", chunk=4)
    loss.backward()
    assert inputs[frozen].grad is None
    assert inputs["teacher_head"].grad is None
    (right,) = torch.autograd.grad(plain(inputs, "reverse")[0], inputs[other])
    torch.testing.assert_close(inputs[other].grad, right, atol=1e-9, rtol=0)


def test_micro_batches_add_up():
    inputs, _, _ = problem(7)
    whole, _ = chunked_kl(**inputs, direction="forward", chunk=4)
    parts = []
    for rows in (slice(0, 2), slice(2, T)):
        part = inputs | {name: inputs[name][rows] for name in TOKEN_INPUTS}
        parts.append(chunked_kl(**part, direction="forward", chunk=4)[0])
    assert_equal_with_gradients(sum(parts), whole, (inputs["student_hidden"], inputs["student_head"]))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_bf16_inputs_are_close_to_fp64(direction):
    exact, _, _ = problem(8)
    tensors = ("student_hidden", "student_head", "teacher_hidden", "teacher_head")
    low = {k: v.detach().to(torch.bfloat16) if k in tensors else v for k, v in exact.items()}
    exact |= {k: low[k].double().requires_grad_() for k in tensors}
    low |= {k: low[k].requires_grad_() for k in tensors[:2]}
    loss, metrics = chunked_kl(**low, direction=direction, chunk=4)
    expected, kl = plain(exact, direction)
    assert loss.dtype == metrics["kl"].dtype == torch.float32
    torch.testing.assert_close(metrics["kl"].double(), kl.detach(), atol=0.1, rtol=0.05)
    grads = torch.autograd.grad(loss, [low[k] for k in tensors[:2]])
    for grad, right in zip(grads, torch.autograd.grad(expected, [exact[k] for k in tensors[:2]])):
        assert grad.dtype == torch.bfloat16
        assert float((grad.double() - right).norm() / right.norm()) < 0.03


def test_autocast_leaves_fp32_precision():
    inputs, _, _ = problem(9, torch.float32)
    targets = torch.arange(T) % V_S

    def run(inputs):
        wanted = (inputs["student_hidden"], inputs["student_head"])
        loss = chunked_kl(**inputs, direction="reverse")[0] - chunked_logprobs(*wanted, targets)[0].sum()
        return loss, *torch.autograd.grad(loss, wanted)

    double = {
        k: v.detach().double().requires_grad_(v.requires_grad) if v.is_floating_point() else v
        for k, v in inputs.items()
    }
    exact, plain_run = run(double), run(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run(inputs)
    for a, b, c in zip(plain_run, inside, exact):
        assert torch.equal(a, b)
        torch.testing.assert_close(a.double(), c, atol=2e-5, rtol=1e-5)


def test_default_chunk_follows_the_vocabulary(monkeypatch):
    monkeypatch.setattr(chunked, "LOGITS_PER_CHUNK", 3 * V_T + 1)
    seen = []
    original = chunked._Head.logits
    monkeypatch.setattr(chunked._Head, "logits", lambda self, h: seen.append(len(h)) or original(self, h))
    inputs, _, _ = problem()
    chunked_kl(**inputs, direction="forward")[0].backward()
    assert max(seen) == 3
    assert sum(seen) == 4 * T  # two models, forward and again in backward


class LargestTensor(TorchDispatchMode):
    """The most elements that any operation gave back, in forward and backward."""

    def __init__(self):
        super().__init__()
        self.elements, self.operations = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        self.operations += 1
        return out


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_tokens_times_words_is_never_made(direction, shared):
    tokens, words, hidden, chunk = 40, 50, 3, 2
    g = torch.Generator().manual_seed(0)
    states, other_states = (torch.randn(tokens, hidden, generator=g) for _ in range(2))
    head, other_head = (torch.randn(words, hidden, generator=g).requires_grad_() for _ in range(2))
    one = torch.ones(tokens)
    index = torch.randperm(words, generator=g)[: words - 7] if shared else None
    with LargestTensor() as seen:
        loss, _ = chunked_kl(
            states.requires_grad_(),
            head,
            other_states,
            other_head,
            weight=one,
            tau_teacher=one,
            tau_student=one,
            direction=direction,
            student_index=index,
            teacher_index=index,
            chunk=chunk,
        )
        forward = seen.operations
        loss.backward()
    assert seen.operations > 2 * forward, "backward was not watched"
    assert seen.elements == words * hidden  # a head, or its gradient; a chunk of logits is smaller
    assert max(words * hidden, chunk * words) < tokens * words / 10
    with LargestTensor() as seen:  # the plain function is what this test is there to notice
        kl_divergence(states @ other_head.T, states @ head.T, one, one, direction)
    assert seen.elements == tokens * words


def slow_logprobs(hidden, head, targets, temperature, bias=None, cap=None):
    logits = hidden @ head.T if bias is None else hidden @ head.T + bias
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    e = torch.exp(logits / temperature)
    p = e / e.sum(dim=1, keepdim=True)
    logprobs = torch.stack([torch.log(p[t, int(word)]) for t, word in enumerate(targets)])
    return logprobs, -(p * torch.log(p)).sum(dim=1)


def test_the_gradient_of_a_bf16_head_adds_up_over_chunks_without_loss():
    torch.manual_seed(0)
    hidden, head = torch.randn(4096, 16), torch.randn(50, 16)
    targets = torch.randint(50, (4096,))
    grads = {}
    for dtype in (torch.float64, torch.bfloat16):
        rounded = head.bfloat16().to(dtype).requires_grad_()
        logprobs, _ = chunked_logprobs(hidden.bfloat16().to(dtype), rounded, targets, chunk=8)
        (logprobs.sum() / len(targets)).backward()
        assert rounded.grad is not None
        assert rounded.grad.dtype == dtype
        grads[dtype] = rounded.grad.double()
    error = (grads[torch.bfloat16] - grads[torch.float64]).norm() / grads[torch.float64].norm()
    assert error < 0.004  # adding up 512 chunks in bf16 gives 0.03


@pytest.mark.parametrize("chunk", [1, 4, 100, None])
@pytest.mark.parametrize("extras", [False, True])
def test_logprobs_and_entropy(extras, chunk):
    inputs, bias, _ = problem(10)
    hidden, head = inputs["student_hidden"], inputs["student_head"]
    targets = (5 * torch.arange(T)) % V_S
    bias, cap = (bias, 2.5) if extras else (None, None)
    logprobs, entropy = chunked_logprobs(hidden, head, targets, 0.7, bias=bias, softcap=cap, chunk=chunk)
    slow, slow_entropy = slow_logprobs(hidden, head, targets, 0.7, bias, cap)
    torch.testing.assert_close(logprobs, slow, atol=1e-9, rtol=0)
    torch.testing.assert_close(entropy, slow_entropy.detach(), atol=1e-9, rtol=0)
    wanted = [hidden, head] + ([bias] if extras else [])
    weight = torch.linspace(-1, 2, T, dtype=torch.float64)
    assert_equal_with_gradients((weight * logprobs).sum(), (weight * slow).sum(), wanted)


def test_gradcheck_logprobs():
    inputs, bias, _ = problem(11)
    targets = torch.arange(T) % V_S

    def logprobs(hidden, head, bias):
        return chunked_logprobs(hidden, head, targets, 1.3, bias=bias, softcap=4.0, chunk=4)[0]

    assert torch.autograd.gradcheck(logprobs, (inputs["student_hidden"], inputs["student_head"], bias))


@pytest.mark.parametrize("chunk", [1, T])
@pytest.mark.parametrize("with_logprobs", [True, False])
def test_an_entropy_has_a_gradient(chunk, with_logprobs):
    inputs, bias, _ = problem()
    hidden, head = inputs["student_hidden"], inputs["student_head"]
    targets = torch.arange(T) % V_S
    weight = torch.linspace(-1, 2, T, dtype=torch.float64)
    logprobs, entropy = chunked_logprobs(hidden, head, targets, 0.7, bias, chunk)
    slow_log, slow_entropy = slow_logprobs(hidden, head, targets, 0.7, bias)
    total, wanted = (weight * entropy).sum(), (weight * slow_entropy).sum()
    if with_logprobs:
        total, wanted = total + logprobs.sum(), wanted + slow_log.sum()
    assert_equal_with_gradients(total, wanted, [hidden, head, bias])


def test_logprobs_without_gradient_keep_nothing():
    inputs, _, _ = problem(12)
    with torch.no_grad():
        logprobs, _ = chunked_logprobs(inputs["student_hidden"], inputs["student_head"], torch.arange(T))
    assert logprobs.grad_fn is None


def test_no_tokens():
    inputs, _, _ = problem()
    inputs |= {name: inputs[name][:0] for name in TOKEN_INPUTS}
    loss, metrics = chunked_kl(**inputs, direction="forward")
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert metrics["kl"].shape == (0,)


def test_refusals():
    inputs, _, _ = problem()
    with pytest.raises(ValueError, match=r"\[13, 17\] words"):
        chunked_kl(**inputs | {"student_index": None, "teacher_index": None}, direction="forward")
    with pytest.raises(ValueError, match="11 tokens"):
        chunked_kl(**inputs | {"weight": torch.ones(T - 1)}, direction="forward")
    with pytest.raises(ValueError, match="backward"):
        chunked_kl(**inputs, direction="backward")
    with pytest.raises(ValueError, match="chunk is 0"):
        chunked_kl(**inputs, direction="forward", chunk=0)
    with pytest.raises(ValueError, match="hidden states"):
        chunked_logprobs(inputs["student_hidden"], inputs["student_head"], torch.arange(3))
