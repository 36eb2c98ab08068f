"""Which ways of sharding a launcher may ask for."""

import pytest

from padd_artifacts.errors import UsageError
from padd_stages.lib.runtime.launcher import sharding_requested

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.mark.parametrize(
    ("name", "environ"),
    [
        ("DeepSpeed", {"ACCELERATE_USE_DEEPSPEED": "true"}),
        ("FSDP1", {"ACCELERATE_USE_FSDP": "1"}),
        ("FSDP with offloaded parameters", FSDP2 | {"FSDP_OFFLOAD_PARAMS": "true"}),
    ],
)
def test_other_ways_are_refused(monkeypatch, name, environ):
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=f"started for {name} .* launch with padd's fsdp2.yaml"):
        sharding_requested()


def test_fsdp2_is_taken(monkeypatch):
    assert not sharding_requested()
    for variable, value in FSDP2.items():
        monkeypatch.setenv(variable, value)
    assert sharding_requested()
