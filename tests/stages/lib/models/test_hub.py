"""A model of the hub is named by the commit that its cache holds, or refused."""

import pytest

from padd_artifacts.errors import PaddError
from padd_stages.lib.models import loading

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_hub_model_is_its_cached_commit(tmp_path, monkeypatch):
    folder = tmp_path / "models--some--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}')
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(loading, "load_config", lambda name: (loading.parse_model_name(name), None))
    assert loading.model_parent("some/model").digest == f"hub:some/model@{COMMIT}"
    with pytest.raises(PaddError, match="the commit of some/other is not known"):
        loading.model_parent("some/other")
