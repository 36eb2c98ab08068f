"""`padd run` over fake stages: what runs, what is skipped, why, and that it equals the commands typed one by one."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.manifest import Parent
from padd_artifacts.plan import Plan
from padd_artifacts.work import create, find
from padd_artifacts.writer import ArtifactWriter, Output
from padd_cli.pipeline import launched as launching

Padd = Callable[..., Any]
KINDS = {
    "padd_stages.toy.stage_unpack": "toy",
    "padd_stages.split_data.stage": "split",
    "padd_stages.cluster.stage": "clusters",
    "padd_stages.warmup.stage": "student",
    "padd_stages.train.stage": "student",
    "padd_stages.evaluate.stage": "evaluation",
    "padd_stages.analyze_experts.stage": "experts",
    "padd_stages.report.stage": "report",
}
STEPS = ["toy", "split-data", "cluster", "warmup", "train"]
EVALS = ["eval/teacher", "eval/base", "eval/stage1", "eval/trained"]
ALL = [*STEPS, *EVALS, "analyze-experts", "report"]
CONFIG = """
pipeline: {source: toy, teacher_tuned: true}
warmup: {steps: 3}
train: {preset: padd, steps: 4}
eval: {samples: 2}
"""


def parent_of(value: str) -> Parent:
    path = Path(value)
    if (path / "manifest.json").is_file():
        return open_artifact(path).as_parent()
    return Parent(kind="model", digest=f"{path.name} {path.exists()}", path=value)


class FakeStage(ModuleType):
    """Writes its options into a file; remembers what it was called with."""

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(name)
        self.kind = kind
        self.calls: list[Output] = []
        self.fail = False

    def plan(self, inputs: Any, options: Any) -> Plan:
        if self.kind == "report":
            root = Path(inputs.runs[0].removeprefix("trained="))
            found = {str(p.relative_to(root)): parent_of(str(p.parent)) for p in root.rglob("manifest.json")}
            parents = {name: parent for name, parent in found.items() if not name.startswith("report/")}
            return Plan(self.kind, options, parents, {"n": 1})
        given = {role: str(value) for role, value in inputs.model_dump().items() if value}
        return Plan(self.kind, options, {role: parent_of(value) for role, value in given.items()}, {"n": 1})

    def run(self, inputs: Any, options: Any, output: Output, reporter: Any) -> Artifact:
        self.calls.append(output)
        if self.fail:
            raise KeyboardInterrupt
        with ArtifactWriter(output, self.plan(inputs, options)) as writer:
            reporter.phase("working")
            writer.write_json("report.json", options.method())
            if self.kind == "toy":
                for name in ("teacher/w", "student/w", "problems.jsonl"):
                    writer.path(name).write_text(name)
            if self.kind == "evaluation":
                numbers = {"greedy": 0.5, "greedy_low": 0.4, "greedy_high": 0.6}
                found = {"d": {"problems": 7, **numbers}}
                writer.summary.update(active_parameters=1234, benchmarks=found)
            if self.kind == "student":
                writer.summary.update(stage3="inactive")
            if self.kind == "report":
                writer.path("index.html").write_text("<!doctype html>")
        return writer.artifact


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, FakeStage]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(CONFIG)
    fakes = {name: FakeStage(name, kind) for name, kind in KINDS.items()}
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    return fakes


@pytest.fixture
def launched(padd: Padd, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was started behind a launcher; it runs here."""
    started: list[list[str]] = []

    def start(words: list[str], **_: Any) -> SimpleNamespace:
        started.append(words)
        # --json: the tables of a result want more than the fakes write
        return SimpleNamespace(returncode=padd(*words[words.index("padd_cli") + 1 :], "--json").code)

    monkeypatch.setattr(launching, "subprocess", SimpleNamespace(run=start, DEVNULL=None))
    return started


def run(padd: Padd, *argv: object) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Action, reason and digest of each step."""
    result = padd("run", "p.yaml", "--json", *argv)
    assert result.code == 0, result.err
    steps = json.loads(result.out)["steps"]
    return tuple({step["step"]: step[key] for step in steps} for key in ("action", "reason", "digest"))  # type: ignore[return-value]


def test_the_first_run_runs_all_and_the_second_nothing(padd: Padd, stages: dict[str, FakeStage]) -> None:
    actions, reasons, digests = run(padd)
    assert list(actions) == ALL
    assert set(actions.values()) == {"ran"}
    assert set(reasons.values()) == {"not there yet"}
    assert {path.name for path in Path("runs/p").iterdir()} == {
        "toy", "split", "clusters", "warmup", "train", "eval", "experts", "report",
    }  # fmt: skip
    calls = [len(stage.calls) for stage in stages.values()]
    again = padd("run", "p.yaml")
    assert "everything is up to date in runs/p; nothing was run" in again.err
    assert f"train: up to date (digest {digests['train'][:8]})" in again.err
    assert [len(stage.calls) for stage in stages.values()] == calls
    assert run(padd)[2] == digests


def test_two_folders_give_the_same_digests(padd: Padd, stages: dict[str, FakeStage]) -> None:
    assert run(padd, "--out", "a")[2] == run(padd, "--out", "b/c")[2]


def test_the_commands_typed_one_by_one_do_the_same(padd: Padd, stages: dict[str, FakeStage]) -> None:
    digests = run(padd)[2]
    pair = ["--teacher", "t/toy/teacher", "--student", "t/toy/student", "--split", "t/split"]
    typed = {
        "toy": ["toy", "unpack", "--out", "t/toy"],
        "split-data": ["split-data", "--problems", "t/toy/problems.jsonl", "--out", "t/split"],
        "cluster": ["cluster", *pair, "--out", "t/clusters"],
        "warmup": ["warmup", *pair, "--clusters", "t/clusters", "--out", "t/warmup"],
        "train": ["train", *pair[:2], "--student", "t/warmup", *pair[4:], "--out", "t/train"],
        "eval/base": ["eval", "--model", "t/toy/student", "--problems", "t/split", "--out", "t/e"],
    }
    for step, argv in typed.items():
        result = padd(*argv, "--config", "p.yaml", "--json")
        assert result.code == 0, result.err
        assert json.loads(result.out)["digest"] == digests[step], step


def test_a_changed_option_runs_that_step_and_what_hangs_on_it(
    padd: Padd, stages: dict[str, FakeStage]
) -> None:
    run(padd)
    Path("p.yaml").write_text(CONFIG.replace("steps: 3", "steps: 5"))
    planned = run(padd, "--dry-run")
    actions, reasons, _ = run(padd)
    ran = [name for name in ALL if actions[name] == "ran"]
    assert ran == ["warmup", "train", "eval/stage1", "eval/trained", "analyze-experts", "report"]
    assert reasons["warmup"] == "options changed: steps"
    assert reasons["train"] == "parent student changed"
    assert reasons["analyze-experts"] == "parent student changed; parent stage1 changed"
    assert [name for name in ALL if planned[0][name] == "would run"] == ran
    assert planned[1]["eval/trained"] == "after train"


def test_run_options_and_moved_folders_change_nothing(padd: Padd, stages: dict[str, FakeStage]) -> None:
    run(padd)
    Path("p.yaml").write_text(CONFIG.replace("{steps: 3}", "{steps: 3, workers: 1}"))
    Path("runs/p").rename("moved")
    assert set(run(padd, "--out", "moved")[0].values()) == {"up to date"}


def test_a_changed_byte_is_noticed_and_repaired(padd: Padd, stages: dict[str, FakeStage]) -> None:
    digests = run(padd)[2]
    Path("runs/p/clusters/report.json").write_text("{}")
    actions, reasons, after = run(padd)
    assert [name for name in ALL if actions[name] == "ran"] == ["cluster"]
    assert reasons["cluster"].startswith("damaged: ")
    assert "report.json has changed" in reasons["cluster"]
    assert after == digests


def test_dry_run_writes_nothing(padd: Padd, stages: dict[str, FakeStage]) -> None:
    before = sorted(Path().rglob("*"))
    result = padd("run", "p.yaml", "--dry-run")
    assert result.code == 0
    assert "after toy" in result.out
    assert "not there yet" in result.out
    assert sorted(Path().rglob("*")) == before


def test_until_and_force_from(padd: Padd, stages: dict[str, FakeStage]) -> None:
    assert list(run(padd, "--until", "cluster")[0]) == ["toy", "split-data", "cluster"]
    assert list(run(padd, "--until", "eval")[0])[-1] == "eval/trained"
    actions, reasons, _ = run(padd, "--force-from", "eval")
    assert [name for name in ALL if actions[name] == "ran"] == [*EVALS, "analyze-experts", "report"]
    assert reasons["eval/teacher"] == "forced"
    assert reasons["analyze-experts"] == "not there yet"
    result = padd("run", "p.yaml", "--until", "trian")
    assert result.code == 2
    assert "did you mean 'train'?" in result.err


def test_what_padd_did_not_write_is_not_replaced(padd: Padd, stages: dict[str, FakeStage]) -> None:
    mine = Path("runs/p/split/precious.txt")
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    result = padd("run", "p.yaml")
    assert result.code == 1
    assert "runs/p/split exists and is not a padd artifact" in result.err
    assert mine.read_text() == "mine"


def test_a_typo_in_the_last_section_stops_before_the_first_step(
    padd: Padd, stages: dict[str, FakeStage]
) -> None:
    Path("p.yaml").write_text(CONFIG + "analyze-experts: {permutation: 30}\n")
    result = padd("run", "p.yaml")
    assert result.code == 2
    assert "did you mean 'permutations'?" in result.err
    assert not Path("runs").exists()


@pytest.mark.parametrize("launch", [(), ("--launch", "torchrun")])
@pytest.mark.parametrize("matches", [True, False])
def test_an_interrupted_step_goes_on_if_its_checkpoint_matches(
    padd: Padd,
    stages: dict[str, FakeStage],
    launched: list[list[str]],
    matches: bool,
    launch: tuple[str, ...],
) -> None:
    train = stages["padd_stages.train.stage"]
    train.fail = True
    assert padd("run", "p.yaml").code == 130
    train.fail = False
    key = json.loads(padd("train", "--dry-run", "--json", *_train_inputs(), "--config", "p.yaml").out)["key"]
    left = create(Path("runs/p/train"), "student", key if matches else "another")
    left.keep()
    left.release()
    _, reasons, _ = run(padd, "--until", "train", *launch)
    assert len(launched) == bool(launch)
    assert train.calls[-1].resume is matches
    ending = "continuing an interrupted run" if matches else "an interrupted run is given up"
    assert reasons["train"] == f"not there yet; {ending}"
    assert find(Path("runs/p/train")) == []


def test_an_artifact_that_a_killed_run_had_moved_away_is_put_back(
    padd: Padd, stages: dict[str, FakeStage]
) -> None:
    run(padd)
    left = create(Path("runs/p/train"), "student", "k")
    Path("runs/p/train").rename(left.path / "replaced")
    left.release()
    assert run(padd, "--dry-run")[0]["train"] == "would run"
    assert set(run(padd)[0].values()) == {"up to date"}


def _train_inputs() -> list[str]:
    return ["--teacher", "runs/p/toy/teacher", "--student", "runs/p/warmup", "--split", "runs/p/split"]


def test_the_table_at_the_end(padd: Padd, stages: dict[str, FakeStage]) -> None:
    result = padd("run", "p.yaml")
    rows = [line for line in result.out.splitlines() if "40.0 to 60.0" in line]
    assert len(rows) == 4
    for row, name in zip(rows, ("teacher", "base", "stage1", "trained"), strict=True):
        assert name in row
        assert "50.0" in row
        assert "1,234" in row
        assert ("Stage III inactive" in row) == (name == "trained")
    assert "runs/p/report/index.html" in result.out
    assert "teacher-grpo: skipped" in result.err
    shown = json.loads(padd("run", "p.yaml", "--json").out)
    assert shown["page"] == "runs/p/report/index.html"
    assert [row["model"] for row in shown["results"]] == ["teacher", "base", "stage1", "trained"]


def test_options_say_that_the_pipeline_gave_the_inputs(padd: Padd, stages: dict[str, FakeStage]) -> None:
    run(padd)
    sources = open_artifact("runs/p/train").manifest.provenance.option_sources
    assert (sources["student"], sources["steps"], sources["phi"]) == (
        "pipeline",
        "file:p.yaml",
        "preset:padd",
    )


def test_a_launcher_starts_what_runs_on_several_processes_with_the_same_digests(
    padd: Padd, stages: dict[str, FakeStage], launched: list[list[str]]
) -> None:
    digests = run(padd)[2]
    assert launched == []
    again = run(padd, "--out", "b", "--launch", "torchrun --nproc-per-node 2")
    assert again[2] == digests
    assert set(again[0].values()) == {"ran"}
    steps = ["cluster", "warmup", "train", *["eval"] * 4, "analyze-experts"]
    assert [words[words.index("padd_cli") + 1] for words in launched] == steps
    for words in launched:
        assert Path(words[0]).name == "torchrun"
        assert words[1:5] == ["--nproc-per-node", "2", "-m", "padd_cli"]
    Path("p.yaml").write_text(CONFIG.replace("teacher_tuned: true", "teacher_tuned: true, launch: torchrun"))
    assert set(run(padd, "--out", "b")[0].values()) == {"up to date"}
    assert run(padd, "--out", "c")[2] == digests
    assert launched[-1][1] == "-m"


def test_a_launcher_is_given_what_is_left_out(
    padd: Padd, stages: dict[str, FakeStage], launched: list[list[str]]
) -> None:
    digests = run(padd, "--without", "stage1,stage3")[2]
    out = ("--out", "b", "--launch", "torchrun")
    assert run(padd, "--without", "stage1,stage3", *out)[2] == digests
    assert run(padd, *out)[0]["train"] == "ran"
    assert run(padd, "--out", "plain")[2]["train"] == run(padd, *out)[2]["train"]


def test_a_launched_stage_that_fails_or_cannot_start_is_one_sentence(
    padd: Padd, stages: dict[str, FakeStage], launched: list[list[str]]
) -> None:
    result = padd("run", "p.yaml", "--launch", "abacus --beads 8")
    assert result.code == 2
    assert "--launch names abacus, which is not installed here" in result.err
    assert not Path("runs").exists()
    stages["padd_stages.train.stage"].fail = True
    result = padd("run", "p.yaml", "--launch", "torchrun")
    assert result.code == 1
    assert "train ended with exit code 130 under" in result.err
    assert Path("runs/p/warmup/manifest.json").exists()


def test_a_launcher_by_its_path_and_the_teachers_own_training(
    padd: Padd, stages: dict[str, FakeStage], launched: list[list[str]]
) -> None:
    """The teacher's training is train too, and nothing is left out of it."""
    Path("p.yaml").write_text(CONFIG.replace("teacher_tuned: true", "teacher_tuned: false"))
    launch = f"{sys.executable} -m torch.distributed.run"
    assert run(padd, "--without", "stage3", "--launch", launch)[0]["teacher-grpo"] == "ran"
    without = [words[words.index("--without") + 1] for words in launched if "train" in words]
    assert without == ["", "stage3"]
    assert {words[0] for words in launched} == {sys.executable}
    assert "cannot be read as a command" in padd("run", "p.yaml", "--launch", "torchrun 'x").err
