"""What processes of a run share, and what is refused before they start."""

import pytest
import torch

from padd_artifacts.errors import PaddError
from padd_stages.lib.runtime import processes as module
from padd_stages.lib.runtime.processes import Processes, collective_forwards, first_to_fail


def of_two(rank: int, **how: bool) -> Processes:
    processes = Processes(torch.device("cpu"), **how)
    processes.rank, processes.world = rank, 2
    return processes


def test_one_process_alone_gets_back_what_it_gives():
    alone = Processes(torch.device("cpu"))
    assert alone.is_main
    value = torch.tensor([1.0, 2.0])
    total = alone.sum(value)
    assert torch.equal(total, value)
    assert total.data_ptr() != value.data_ptr()
    assert alone.gather("x") == ["x"]
    assert alone.sum_each({"a": 2.0}) == {"a": 2.0}
    assert alone.max_each({"a": 2.0}) == {"a": 2.0}
    assert alone.share(range(3)) == [0, 1, 2]


def test_shares_are_contiguous_and_cover_everything_once():
    assert of_two(0).share(range(6)) + of_two(1).share(range(6)) == list(range(6))
    with pytest.raises(ValueError, match="5 values cannot be divided among 2"):
        of_two(0).share(range(5))


def test_sums_count_a_missing_number_as_nothing(monkeypatch):
    processes = of_two(0)
    monkeypatch.setattr(processes, "gather", lambda value: [value, {"b": 5.0}])
    assert processes.sum_each({"a": 1.0, "b": 2.0}) == {"a": 1.0, "b": 7.0}


def test_gradients_are_summed_where_any_process_has_one(monkeypatch):
    """The other process has a gradient of 2 everywhere it has one: at the second and third parameter."""
    here, there, both, nowhere = (torch.nn.Parameter(torch.zeros(3)) for _ in range(4))
    here.grad, both.grad = torch.ones(3), torch.ones(3)
    processes = of_two(0)
    monkeypatch.setattr(processes, "sum", lambda mine: mine + torch.tensor([0.0, 1.0, 1.0, 0.0]))
    others = iter([0.0, 2.0, 2.0])
    monkeypatch.setattr(module.dist, "all_reduce", lambda grad: grad.add_(next(others)))
    processes.sum_gradients([here, there, both, nowhere])
    assert [None if p.grad is None else p.grad.tolist() for p in (here, there, both, nowhere)] == [
        [1.0] * 3,
        [2.0] * 3,
        [3.0] * 3,
        None,
    ]


def test_batches_are_cut_until_every_process_has_as_many(monkeypatch):
    assert of_two(0).equal_batches([[3, 1, 2]]) == [[3, 1, 2]]
    processes = of_two(0, shards=True)
    monkeypatch.setattr(processes, "gather", lambda value: [value, 4])
    cut = processes.equal_batches([[5, 4], [0, 1, 2, 3]])
    assert sorted(map(len, cut)) == [1, 1, 2, 2]
    assert sorted(i for batch in cut for i in batch) == [0, 1, 2, 3, 4, 5]


def test_of_errors_in_a_forward_only_the_connections_tell_of_another_process():
    with pytest.raises(PaddError, match="another process of this run has ended"), collective_forwards():
        raise RuntimeError(
            "[third_party/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"
        )
    with pytest.raises(PaddError, match="another process of this run has ended"), collective_forwards():
        raise torch.distributed.DistBackendError("NCCL error")
    with pytest.raises(RuntimeError, match="of our own"), collective_forwards():
        raise RuntimeError("of our own")


def test_without_a_launcher_every_failure_is_said(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert first_to_fail()
    monkeypatch.setenv("WORLD_SIZE", "2")  # and no store: better two sentences than none
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert first_to_fail()


def test_of_processes_that_fail_the_first_speaks(monkeypatch):
    store = module.dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}.items():
        monkeypatch.setenv(name, str(value))
    assert [first_to_fail(), first_to_fail()] == [True, False]
