"""What padd uses of other libraries' insides: it is as expected here, and a change of it is said by name."""

import importlib
import re
from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from padd_cli.app import exit_code
from padd_cli.commands.doctor import INSIDES, OPTIONAL
from padd_stages.lib.compat import probes, transformers
from padd_stages.lib.compat.probes import Library, failures, known_versions, require, unknown_versions

LIBRARIES: dict[str, Library] = {
    name: importlib.import_module(name).LIBRARY for name in (*INSIDES, *OPTIONAL.values())
}
QWEN = "transformers.models.qwen3_moe.modeling_qwen3_moe"


@pytest.fixture(autouse=True)
def asked_anew():
    """Probes run once a process otherwise."""
    failures.cache_clear()
    yield
    failures.cache_clear()


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=lambda library: library.package)
def test_the_installed_library_is_as_padd_needs_it(library):
    assert failures(library) == ()
    assert len(known_versions(library.package).split(",")) == 2, "both ends are bounds"


def renamed(target: str, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """As after a release that calls ``name`` of a module or class otherwise."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        module, _, attribute = target.partition(":")
        owner: Any = importlib.import_module(module)
        monkeypatch.delattr(getattr(owner, attribute) if attribute else owner, name)

    return patch


def replaced(target: str, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        module, _, attribute = target.partition(":")
        owner: Any = importlib.import_module(module)
        monkeypatch.setattr(getattr(owner, attribute) if attribute else owner, name, value)

    return patch


# library, what a release changes, the name that the sentence must hold
CHANGES = [
    ("transformers", replaced("padd_stages.lib.compat.transformers", "Cache", int), "Cache"),
    (
        "transformers",
        replaced("padd_stages.lib.compat.transformers", "find_cache", lambda outputs: ("kept", outputs)),
        "the key-value cache",
    ),
    ("transformers", renamed("transformers:Cache", "reorder_cache"), "Cache.reorder_cache"),
    ("transformers", renamed(f"{QWEN}:Qwen3MoeExperts", "_apply_gate"), "_apply_gate"),
    ("transformers", replaced(f"{QWEN}:Qwen3MoeTopKRouter", "forward", lambda self, x: x), "router"),
    ("transformers", renamed("transformers.modeling_layers", "GradientCheckpointingLayer"), "GradientCheck"),
    ("transformers", renamed("transformers.pytorch_utils", "Conv1D"), "Conv1D"),
    (
        "transformers",
        renamed("transformers:PreTrainedModel", "get_experts_implementation"),
        "get_experts_impl",
    ),
    (
        "transformers",
        renamed("transformers.models.auto.tokenization_auto", "get_tokenizer_config"),
        "get_tokenizer_config",
    ),
    ("transformers", renamed(QWEN, "load_balancing_loss_func"), "load_balancing_loss_func"),
    ("torch", renamed("torch._C", "_current_graph_task_id"), "_current_graph_task_id"),
    ("torch", replaced("torch._C", "_current_graph_task_id", lambda: -1), "_current_graph_task_id"),
    (
        "accelerate",
        replaced("padd_stages.lib.compat.accelerate", "FSDP", "ACCELERATE_FSDP"),
        "ACCELERATE_USE_FSDP",
    ),
    ("math-verify", renamed("math_verify", "LatexExtractionConfig"), "LatexExtractionConfig"),
    ("math-verify", replaced("math_verify", "verify", lambda gold, answer: True), "verify(timeout_seconds=)"),
    ("math-verify", replaced("math_verify", "parse", lambda text, **_: [text]), "parse(parsing_timeout="),
    ("torchao", renamed("torchao.optim.adam:_AdamBase", "_new_buffer"), "_new_buffer"),
    ("typer", replaced("padd_cli.compat:TyperGroup", "add_command", None), "TyperGroup.add_command"),
]


@pytest.mark.parametrize(("package", "change", "name"), CHANGES, ids=[f"{c[0]} {c[2]}" for c in CHANGES])
def test_a_changed_inside_is_said_with_library_version_name_and_cure(package, change, name, monkeypatch):
    change(monkeypatch)
    library = next(each for each in LIBRARIES.values() if each.package == package)
    found = [sentence for sentence in failures(library) if name in sentence]
    assert found, failures(library)
    bounds = re.escape(known_versions(package))
    pattern = (
        rf"{package} {re.escape(metadata.version(package))} lacks an interface that padd uses \(.*\), so padd cannot "
        rf".*; padd is known to work with {package}{bounds}: `pip install '{package}{bounds}'`\."
    )
    assert re.fullmatch(pattern, found[0])


def test_doctor_and_a_command_say_the_same_sentence(pico, tmp_path, monkeypatch, capsys):
    monkeypatch.delattr(importlib.import_module(QWEN).Qwen3MoeExperts, "_apply_gate")
    assert exit_code(["doctor"]) == 1
    told = capsys.readouterr().out
    sentence = next(line.strip() for line in told.splitlines() if "_apply_gate" in line)
    passed, checks = map(int, re.findall(r"transformers: (\d+) of (\d+) checks pass; known to work", told)[0])
    assert passed < checks
    argv = ["eval", "--model", pico.student, "--problems", pico.split, "--out", tmp_path / "e"]
    assert exit_code([str(word) for word in argv]) == 1
    assert f"error: {sentence}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_grader_whose_library_changed_refuses_instead_of_finding_everything_wrong(monkeypatch, tmp_path):
    from padd_artifacts.errors import PaddError
    from padd_stages.lib.grading.grader import Grader

    (tmp_path / "math_verify.py").write_text(
        "def parse(text): return []\ndef verify(gold, answer): return False\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # of the grading processes
    with (
        Grader(workers=1) as grader,
        pytest.raises(PaddError, match="padd cannot grade answers; padd is known"),
    ):
        grader.grade([(r"\boxed{x+1}", "1+x")])


def test_versions_that_padd_was_not_run_with_are_named(monkeypatch, capsys):
    assert unknown_versions() == []
    installed = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "99.0" if name == "transformers" else installed(name)
    )
    bounds = known_versions("transformers")
    (text,) = unknown_versions()
    assert text == (
        f"transformers 99.0 is not among the versions that padd was run with ({bounds}), so results may be wrong; "
        f"`pip install 'transformers{bounds}'`."
    )
    exit_code(["split-data", "--problems", "nothing.jsonl", "--out", "nowhere"])
    assert f"warning: {text}" in capsys.readouterr().err
    assert exit_code(["doctor"]) == 1


def test_a_library_that_is_not_there_is_named(monkeypatch):
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert unknown_versions()[0].startswith(
        "accelerate is not installed, and padd cannot do without; `pip install"
    )
    broken = Library("accelerate", (probes.Probe("`x`", "launch", lambda: importlib.import_module("nope")),))
    with pytest.raises(
        probes.PaddError, match=r"accelerate \(not installed\) lacks .*No module named 'nope'"
    ):
        require(broken)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_experts_run_by_the_kernel_for_few_tokens_on_gpus_alone(device):
    seen = [{"": "grouped_mm", "text_config": "eager"}]
    model = SimpleNamespace(
        device=torch.device(device),
        get_experts_implementation=lambda: dict(seen[-1]),
        set_experts_implementation=seen.append,
    )
    with transformers.single_token_kernels(model):
        assert seen[-1][""] == ("batched_mm" if device == "cuda" else "grouped_mm")
    assert seen[-1] == seen[0]
    assert len(seen) == (3 if device == "cuda" else 1)
