"""Sampling through the protocol of vLLM: token for token padd's own sampler; what is wrong is refused."""

import pytest
import torch
from vllm_server import VllmServer

from padd_artifacts.errors import UsageError
from padd_stages.evaluate.options import EvaluateOptions
from padd_stages.lib.models.loading import load_model
from padd_stages.lib.sampling import server as http
from padd_stages.lib.sampling.responses import Request, Sampling, sample
from padd_stages.lib.sampling.server import EngineError
from padd_stages.lib.sampling.vllm import VllmEngine, check_engine, engine_of

REQUESTS = [Request(tuple(range(8 + i % 3, 14)), ("v", i)) for i in range(9)]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(http, "PAUSES", (0.0, 0.01))


@pytest.fixture
def served(pico):
    with VllmServer(pico.student) as server:
        yield server


@pytest.fixture
def student(pico):
    return load_model(str(pico.student))


def asked(server, student, sampling=None, **options):
    engine = VllmEngine(server.url, timeout=30.0)
    sampling = sampling or Sampling(7)
    return engine.sample(REQUESTS, sampling, eos_ids=student.eos_ids, **options)


def own(student, sampling=None, **options):
    return sample(
        student.model,
        REQUESTS,
        sampling or Sampling(7),
        eos_ids=student.eos_ids,
        pad_id=student.pad_id,
        batch_tokens=10**6,
        **options,
    )


@pytest.mark.parametrize(
    "sampling", [Sampling(7, 0.0), Sampling(7), Sampling(7, 1.7), Sampling(7, 0.8, 0.9)], ids=str
)
def test_responses_are_those_of_the_reference(served, student, sampling):
    mine = own(student, sampling, with_logprobs=True)
    theirs = asked(served, student, sampling, with_logprobs=True)
    assert [r.token_ids for r in theirs] == [r.token_ids for r in mine]
    assert [r.truncated for r in theirs] == [r.truncated for r in mine]
    if sampling.temperature > 0:
        for a, b in zip(theirs, mine, strict=True):
            torch.testing.assert_close(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=1e-4, rtol=0)


def test_ends_are_padds_own_alone(served, student):
    student.model.generation_config.eos_token_id = list(range(0, 60, 2))
    mine, theirs = own(student), asked(served, student)
    assert [r.token_ids for r in theirs] == [r.token_ids for r in mine]
    assert {r.truncated for r in theirs} == {True, False}
    assert all(body["ignore_eos"] for body in served.bodies)


def test_routes_are_those_of_the_reference(served, student):
    mine = own(student, routed_by=student.adapter)
    theirs = asked(served, student, routed_by=student.adapter)
    for a, b in zip(theirs, mine, strict=True):
        assert a.routes is not None
        assert b.routes is not None
        assert a.routes.shape == b.routes.shape
        assert a.routes.dtype == b.routes.dtype
        assert torch.equal(a.routes[:, :-1].sort(-1).values, b.routes[:, :-1].sort(-1).values)
        assert (a.routes[:, -1] == -1).all()


def test_batches_arrive_as_they_are_finished(served, student):
    arrived = {}
    responses = asked(served, student, on_batch=lambda i, r: arrived.update(zip(i, r, strict=True)))
    assert [arrived[i] for i in range(len(REQUESTS))] == responses


@pytest.mark.parametrize("fault", ["abort", "error500", "error503", "cut_json"])
def test_a_passing_fault_changes_nothing(served, student, fault):
    expected = asked(served, student)
    served.faults[fault] = 1
    assert asked(served, student) == expected
    assert not served.faults[fault]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no_token_ids", "does not return the token ids"),
        ("short", "cut a response at 6 of 7 tokens"),
        ("stop_early", "ended a response with token 0, which is none of the model's ends"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_refused(served, student, fault, said):
    served.faults[fault] = 1
    with pytest.raises(EngineError, match=said):
        asked(served, student)


def test_a_server_that_dies_ends_the_sampling_and_keeps_what_came(served, student):
    served.faults["die"] = 5
    arrived = []
    with pytest.raises(EngineError, match=r"failed at /v1/completions 3 times.*--resume"):
        asked(served, student, on_batch=lambda indices, _: arrived.extend(indices))
    assert 0 < len(arrived) < len(REQUESTS)


def test_lengths_beyond_the_servers_are_refused(pico, student):
    with (
        VllmServer(pico.student, longest=12) as server,
        pytest.raises(EngineError, match="--max-model-len 13"),
    ):
        asked(server, student)


def test_temperatures_that_vllm_would_change_are_refused(served, student):
    with pytest.raises(EngineError, match=r"temperature of 0\.001"):
        asked(served, student, Sampling(7, 0.001))


def test_another_model_is_refused(served, pico):
    options = EvaluateOptions(engine="vllm", engine_url=served.url)
    assert engine_of(options, str(pico.student)) is not None
    with pytest.raises(EngineError, match=r"--served-model-name teacher"):
        engine_of(options, str(pico.teacher))
    with VllmServer(pico.student, name="teacher") as renamed:
        assert (
            engine_of(EvaluateOptions(engine="vllm", engine_url=renamed.url), str(pico.teacher)) is not None
        )


def test_an_engine_needs_its_address_and_an_address_its_engine():
    with pytest.raises(UsageError, match="--engine-url"):
        check_engine(EvaluateOptions(engine="vllm"))
    with pytest.raises(UsageError, match="--engine vllm"):
        check_engine(EvaluateOptions(engine_url="http://x"))
    assert engine_of(EvaluateOptions(), "x") is None


@pytest.fixture
def changed(pico, student, tmp_path):
    """A folder with other weights."""
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.mul_(1.1)
    student.model.save_pretrained(tmp_path / "new")
    return tmp_path / "new"


def test_weights_from_a_folder(served, changed, student):
    engine = VllmEngine(served.url, timeout=30.0)
    engine.load(changed, "run-1", changed=True)
    assert served.loaded[-1] == str(changed)
    assert (served.version, engine.version, served.paused) == ("run-1", "run-1", False)
    assert served.calls["/reset_prefix_cache"] == 1
    theirs = engine.sample(REQUESTS, Sampling(7), eos_ids=student.eos_ids)
    assert [r.token_ids for r in theirs] == [r.token_ids for r in own(student)]


def test_weights_that_were_not_taken_are_noticed(served, changed):
    served.faults["ignore_weights"] = 1
    with pytest.raises(EngineError, match="its weights are what they were"):
        VllmEngine(served.url, timeout=30.0).load(changed, "run-1", changed=True)


def test_responses_of_other_weights_are_refused(served, changed, student):
    engine = VllmEngine(served.url, timeout=30.0)
    engine.load(changed, "run-1", changed=True)
    served.version = "run-0"
    with pytest.raises(EngineError, match="answered with weights run-0 and run-1 is asked for"):
        engine.sample(REQUESTS, Sampling(7), eos_ids=student.eos_ids)


def test_a_reload_that_fails_once_is_repeated(served, changed):
    served.faults["error500"] = 1
    VllmEngine(served.url, timeout=30.0).load(changed, "run-1", changed=True)
    assert served.version == "run-1"


def test_a_server_without_development_mode_takes_no_weights(pico, changed):
    with (
        VllmServer(pico.student, dev_mode=False) as server,
        pytest.raises(EngineError, match="VLLM_SERVER_DEV_MODE=1"),
    ):
        VllmEngine(server.url, timeout=30.0).load(changed, "run-1", changed=True)


def test_sleep_and_wake(served):
    engine = VllmEngine(served.url, timeout=30.0)
    engine.sleep()
    assert served.sleeping
    engine.wake()
    assert not served.sleeping
