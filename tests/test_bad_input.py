"""Bad input, typed as a user would: one sentence, the right exit code, nothing half-written."""

import json
import shutil
from pathlib import Path

import pytest

from padd_cli.app import exit_code


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder; check code, one sentence on stderr, and that nothing was left."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def check(argv: list[str], code: int, *words: str) -> None:
        before = sorted(folder.rglob("*"))
        capsys.readouterr()
        assert exit_code([str(argument) for argument in argv]) == code
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, captured.err
        assert "Traceback" not in captured.err
        for word in words:
            assert word in errors[0], errors[0]
        assert captured.out == ""
        assert sorted(folder.rglob("*")) == before

    check.folder = folder  # type: ignore[attr-defined]
    return check


def problems(folder: Path, text: str) -> Path:
    path = folder / "data.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


GOOD = json.dumps({"problem": "1 + 1", "answer": "2"}) + "\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        (GOOD + "{broken\n", ["line 2"]),
        (json.dumps({"question": "1 + 1", "answer": "2"}) + "\n", ["problem", "question"]),
        (json.dumps({"problem": "1 + 1", "result": "2"}) + "\n", ["answer", "result"]),
    ],
)
def test_unusable_problem_files(refuse, text, words):
    path = problems(refuse.folder, text)
    argv = ["split-data", "--problems", path, "--out", "out"]
    code = 2 if "result" in text or "question" in text else 1
    refuse(argv, code, *words)


def test_a_missing_file(refuse):
    refuse(["split-data", "--problems", "nothing.jsonl", "--out", "out"], 1, "nothing.jsonl")


def test_ratios_that_do_not_add_up(refuse):
    path = problems(refuse.folder, GOOD)
    argv = ["split-data", "--problems", path, "--ratios", "0.1,0.2,0.6,0.2", "--out", "out"]
    refuse(argv, 2, "1.1")


def test_an_unknown_key_in_a_config(refuse):
    (refuse.folder / "c.yaml").write_text("split-data:\n  ratio: 1\n")
    argv = ["split-data", "--config", "c.yaml", "--problems", problems(refuse.folder, GOOD), "--out", "out"]
    refuse(argv, 2, "ratio", "did you mean 'ratios'")


def test_a_name_that_is_no_model(refuse):
    refuse(["cluster", "--teacher", "Qwen9-Math", "--clusters", "8", "--out", "out"], 1, "Qwen9-Math", "padd")


def test_a_hub_model_without_network(refuse, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    argv = ["cluster", "--teacher", "Qwen2.5-Math-7B", "--clusters", "128", "--out", "out"]
    refuse(argv, 1, "Qwen2.5-Math-7B", "Qwen/Qwen2.5-Math-7B", str(constants.HF_HUB_CACHE))


def test_a_teacher_that_is_no_causal_model(refuse):
    (refuse.folder / "bert").mkdir()
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    (refuse.folder / "bert" / "config.json").write_text(json.dumps(config))
    refuse(
        ["cluster", "--teacher", "bert", "--clusters", "4", "--out", "out"], 1, "BertForMaskedLM", "causal"
    )


def test_a_student_without_experts(refuse, pico):
    pair = ["--teacher", pico.teacher, "--student", pico.teacher, "--split", pico.split, "--out", "out"]
    refuse(["cluster", *pair], 1, "experts")
    refuse(["train", *pair, "--num-iterations", "2"], 1, "dense")


def test_a_broken_split(refuse, pico):
    copy = refuse.folder / "split"
    shutil.copytree(pico.split, copy)
    argv = ["eval", "--model", pico.student, "--problems", "split", "--out", "out"]
    rows = (copy / "d.jsonl").read_bytes()
    (copy / "d.jsonl").write_bytes(rows[:-2] + b"!" + rows[-1:])
    refuse(argv, 1, "d.jsonl", "changed")
    (copy / "d.jsonl").write_bytes(rows)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    refuse(argv, 1, "schema 99", "upgrade")


def test_a_student_that_lost_its_router_state(refuse, pico):
    copy = refuse.folder / "student"
    shutil.copytree(pico.student, copy)
    config = json.loads((copy / "config.json").read_text())
    config["padd"] = {"router_state_sha256": "0" * 64, "bias_mode": "logits"}
    (copy / "config.json").write_text(json.dumps(config))
    argv = ["eval", "--model", "student", "--problems", pico.split, "--out", "out"]
    refuse(argv, 1, "router_state.safetensors", "missing")


def test_an_evaluation_of_nothing(refuse, pico):
    model = ["eval", "--model", pico.student, "--out", "out"]
    refuse(model, 2, "--benchmark", "--problems")
    refuse([*model, "--benchmark", "math5000"], 2, "math5000", "math500")
    refuse(
        [*model, "--benchmark", "math500", "--benchmark-dir", "."],
        1,
        "math500.jsonl",
        "HuggingFaceH4/MATH-500",
    )
    refuse([*model, "--problems", pico.split, "--resume"], 1, "nothing to resume")


def test_responses_that_cannot_be_graded(refuse):
    argv = ["eval", "--responses", "mine.jsonl", "--out", "out"]
    refuse(argv, 1, "mine.jsonl", "no responses to grade")
    row = {"id": "a", "answer": "2"}
    (refuse.folder / "mine.jsonl").write_text(
        json.dumps(row | {"response": "x"}) + "\n" + json.dumps(row) + "\n"
    )
    refuse(argv, 2, "row 2 of mine.jsonl", "no response")


def test_an_output_that_exists(refuse, pico):
    (refuse.folder / "out").mkdir()
    (refuse.folder / "out" / "mine.txt").write_text("mine")
    argv = ["eval", "--model", pico.student, "--problems", pico.split, "--out", "out"]
    refuse(argv, 1, "out exists", "--force")
