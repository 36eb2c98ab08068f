"""Ways to point --out and --force at what is not padd's, typed as a user would: refused, and not a byte changes."""

import importlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from padd_artifacts.artifact import open_artifact
from padd_artifacts.plan import Plan
from padd_artifacts.work import create
from padd_artifacts.writer import ArtifactWriter, Output
from padd_cli.app import COMMANDS, exit_code
from padd_cli.stage_command import StageCommand
from padd_stages.lib.options.base import Inputs, Options

PROBLEMS = "".join(json.dumps({"problem": f"{n} + 1", "answer": str(n + 1)}) + "\n" for n in range(40))


def snapshot(folder: Path) -> dict[str, Any]:
    """Every name below a folder with its bytes, or where it leads; work folders of padd too."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "/"
    return found


class Here:
    """A folder to type commands in."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.write("data.jsonl", PROBLEMS)
        self.write("mine/precious.txt", "mine")

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def artifact(self, name: str, kind: str, files: tuple[str, ...] = ("report.json",)) -> Path:
        with ArtifactWriter(Output(self.folder / name), Plan(kind, Options(), {})) as writer:
            for file in files:
                writer.path(file).write_text("{}", encoding="utf-8")
        return self.folder / name

    def padd(self, *argv: object) -> tuple[int, str]:
        """Exit code and stderr."""
        self._capsys.readouterr()
        code = exit_code([str(word) for word in argv])
        return code, self._capsys.readouterr().err

    def split(self, out: object, *flags: object, problems: object = "data.jsonl") -> list[object]:
        return ["split-data", "--problems", problems, "--out", out, *flags]

    def made(self, name: str = "split") -> Path:
        """A split that padd made."""
        assert self.padd(*self.split(name))[0] == 0
        return self.folder / name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    folder = tmp_path / "around" / "here"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return Here(folder, capsys)


def linked(here: Here, name: str, target: str) -> str:
    (here.folder / name).symlink_to(target)
    return name


def inside_made(here: Here, name: str) -> str:
    here.made()
    return str(here.write(f"split/{name}", "mine").relative_to(here.folder))


def with_manifest(here: Here, change: Callable[[str], str]) -> str:
    path = here.made() / "manifest.json"
    path.write_text(change(path.read_text()))
    return "split"


def model(here: Here) -> str:
    here.write(
        "model/config.json", json.dumps({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]})
    )
    return "model"


def rows_of(here: Here) -> str:
    """A file of an artifact, as problems."""
    return str((here.made() / "c.jsonl").relative_to(here.folder))


def evaluations(here: Here) -> list[str]:
    return [f"{name}={here.artifact(name, 'evaluation').name}" for name in ("A", "B")]


def from_inside(here: Here) -> list[object]:
    os.chdir(here.made())
    return here.split("../split", "--force", problems="../data.jsonl")


def benchmarks(here: Here) -> list[object]:
    here.artifact("bench", "split", ("b.jsonl",)).joinpath("b.jsonl").write_text(PROBLEMS)
    return here.split("bench", "--force", "--benchmarks", "bench/b.jsonl")


def teacher_not_read(here: Here) -> list[object]:
    here.artifact("teacher", "student", ("config.json",))
    here.made()
    argv = ["train", "--student", model(here), "--split", "split", "--teacher", "teacher"]
    return [*argv, "--preset", "grpo", "--out", "teacher", "--force"]


def pipeline(here: Here, out: str) -> list[object]:
    here.write("p.yaml", yaml.safe_dump({"pipeline": {"source": "toy", "teacher_tuned": True}}))
    return ["run", "p.yaml", "--out", out]


Case = tuple[Callable[[Here], list[Any]], int, tuple[str, ...]]
CASES: dict[str, Case] = {
    # without --force
    "a folder of mine": (lambda h: h.split("mine"), 1, ("mine exists", "--force")),
    "the same with a slash": (lambda h: h.split("mine/"), 1, ("mine exists",)),
    "a split": (lambda h: h.split(h.made()), 1, ("exists and is not overwritten",)),
    "a file": (lambda h: h.split("mine/precious.txt"), 1, ("is a file",)),
    "the problems": (lambda h: h.split("data.jsonl"), 1, ("data.jsonl is a file",)),
    "a link": (lambda h: h.split(linked(h, "l", "mine")), 1, ("l is a link",)),
    "a link to nothing": (lambda h: h.split(linked(h, "l", "nothing")), 1, ("l is a link",)),
    "here": (lambda h: h.split("."), 2, ("no folder of its own",)),
    "above": (lambda h: h.split(".."), 2, ("no folder of its own",)),
    "above a new one": (lambda h: h.split("new/.."), 2, ("no folder of its own",)),
    "the root": (lambda h: h.split("/"), 2, ("no folder of its own",)),
    "no name": (lambda h: h.split(""), 2, ("no folder of its own",)),
    "below a file": (lambda h: h.split("data.jsonl/out"), 1, ("data.jsonl is not a folder",)),
    "far below a file": (lambda h: h.split("data.jsonl/a/b"), 1, ("data.jsonl is not a folder",)),
    "below a link to nothing": (lambda h: h.split(linked(h, "l", "no") + "/x/y"), 1, ("is not a folder",)),
    "below a link to itself": (lambda h: h.split(linked(h, "l", "l") + "/x"), 1, ("is not a folder",)),
    "too long a name": (lambda h: h.split("x" * 300), 1, ("File name too long", "name another --out")),
    "below a device": (lambda h: h.split("/dev/null/out"), 1, ("/dev/null is not a folder",)),
    # with --force
    "forced: a folder of mine": (lambda h: h.split("mine", "--force"), 1, ("not a padd artifact",)),
    "forced: a file": (lambda h: h.split("mine/precious.txt", "--force"), 1, ("is a file",)),
    "forced: here": (lambda h: h.split(".", "--force"), 2, ("no folder of its own",)),
    "forced: here by its name": (lambda h: h.split("../here", "--force"), 1, ("data.jsonl", "reads")),
    "forced: around here": (lambda h: h.split("../../around", "--force"), 1, ("data.jsonl", "reads")),
    "forced: the current folder": (from_inside, 1, ("the current folder",)),
    "forced: another kind": (
        lambda h: h.split(h.artifact("student", "student"), "--force"),
        1,
        ("of kind 'student'", "'split'"),
    ),
    "forced: a note in a split": (
        lambda h: [inside_made(h, "n.txt"), *h.split("split", "--force")][1:],
        1,
        ("'n.txt'", "did not write"),
    ),
    "forced: a folder in a split": (
        lambda h: [inside_made(h, "more/n.txt"), *h.split("split", "--force")][1:],
        1,
        ("'more'",),
    ),
    "forced: a broken manifest": (
        lambda h: h.split(with_manifest(h, lambda text: text[:-9]), "--force"),
        1,
        ("padd inspect",),
    ),
    "forced: a newer manifest": (
        lambda h: h.split(with_manifest(h, lambda t: t.replace('_version": 1', '_version": 9')), "--force"),
        1,
        ("padd inspect",),
    ),
    "forced: another program's manifest": (
        lambda h: h.split(h.write("app/manifest.json", '{"name": "app"}').parent, "--force"),
        1,
        ("padd inspect",),
    ),
    "forced: a link to a split": (
        lambda h: h.split(linked(h, "l", h.made().name), "--force"),
        1,
        ("l is a link",),
    ),
    "forced: its own rows": (
        lambda h: h.split("split", "--force", problems=rows_of(h)),
        1,
        ("split/c.jsonl", "reads"),
    ),
    "forced: its own rows by a link": (
        lambda h: h.split("split", "--force", problems=linked(h, "l.jsonl", rows_of(h))),
        1,
        ("l.jsonl", "reads"),
    ),
    "forced: its own rows by another way": (
        lambda h: h.split("split", "--force", problems=f"mine/../{rows_of(h)}"),
        1,
        ("c.jsonl", "reads"),
    ),
    "forced: a benchmark": (benchmarks, 1, ("b.jsonl", "reads")),
    "forced: the config": (
        lambda h: h.split("split", "--force", "--config", inside_made(h, "c.yaml")),
        2,
        ("c.yaml",),
    ),
    "forced: the model itself": (
        lambda h: ["eval", "--model", model(h), "--problems", h.made(), "--out", "model", "--force"],
        1,
        ("model", "reads"),
    ),
    "forced: the split of an evaluation": (
        lambda h: ["eval", "--model", model(h), "--problems", h.made(), "--out", "split", "--force"],
        1,
        ("split", "reads"),
    ),
    "forced: a teacher that is not read": (teacher_not_read, 1, ("teacher", "reads")),
    "forced: an evaluation that is compared": (
        lambda h: ["compare", *evaluations(h), "--out", "A", "--force"],
        1,
        ("A", "reads"),
    ),
    "forced: the folder that is reported on": (
        lambda h: ["report", h.artifact("run/train", "student").parent, "--out", "run", "--force"],
        1,
        ("run", "reads"),
    ),
    "forced: a toy over a folder of mine": (
        lambda h: ["toy", "unpack", "--out", "mine", "--force"],
        1,
        ("not a padd artifact",),
    ),
    # padd run replaces what it made before, without --force
    "run: below a file": (lambda h: pipeline(h, "data.jsonl"), 1, ("data.jsonl is not a folder",)),
    "run: a folder of mine": (
        lambda h: [h.write("p/toy/n.txt", "mine"), *pipeline(h, "p")][1:],
        1,
        ("p/toy exists and is not a padd artifact",),
    ),
    "run: another kind": (
        lambda h: [h.artifact("p/toy", "split"), *pipeline(h, "p")][1:],
        1,
        ("of kind 'split'", "'toy'"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_and_nothing_changes(here: Here, name: str) -> None:
    make, code, words = CASES[name]
    argv = make(here)
    before = snapshot(here.folder.parent.parent)
    found, err = here.padd(*argv)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (found, len(errors)) == (code, 1), err
    assert "unexpected" not in errors[0]
    assert errors[0].endswith(".")
    for word in words:
        assert word in errors[0], errors[0]
    assert snapshot(here.folder.parent.parent) == before


def test_what_may_be_written(here: Here) -> None:
    """New names, an empty folder, and with --force what an earlier command made, whole or damaged."""
    (here.folder / "empty").mkdir()
    here.write("long/x", "")
    for out in ("new", "a/b/c", "slash/", "empty", "x" * 255, "mine/../other", "sp ace\nline", ".hidden"):
        assert here.padd(*here.split(out))[0] == 0, out
        assert open_artifact(here.folder / out, "split")
    digest = open_artifact("new").manifest.digest
    (here.folder / "new" / "a.jsonl").unlink()
    assert here.padd(*here.split("new", "--force", "--seed", "5"))[0] == 0
    assert open_artifact("new").manifest.digest != digest
    assert [path.name for path in here.folder.rglob("*.padd-*")] == []


def forge(here: Here, name: str, marker: object) -> None:
    here.write(f"{name}/artifact/precious.txt", "mine")
    here.write(f"{name}/padd.json", marker if isinstance(marker, str) else json.dumps(marker))


MARKER = {
    "what": "padd work folder",
    "output": "o",
    "kind": "split",
    "key": "k",
    "host": "h",
    "pid": 1,
    "launcher": "",
}
NEIGHBOURS: dict[str, Callable[[Here], object]] = {
    "o.old": lambda h: h.write("o.old/precious.txt", "mine"),
    "o.partial": lambda h: h.write("o.partial/precious.txt", "mine"),
    "a run of an older padd": lambda h: h.write("o.partial/resume.json", '{"key": "k"}'),
    "a file o.partial": lambda h: h.write("o.partial", "mine"),
    "no marker": lambda h: h.write(".o.padd-00000000/artifact/precious.txt", "mine"),
    "a file of such a name": lambda h: h.write(".o.padd-00000000", "mine"),
    "a marker that is no JSON": lambda h: forge(h, ".o.padd-00000000", "mine"),
    "a marker of another program": lambda h: forge(h, ".o.padd-00000000", MARKER | {"what": "mine"}),
    "a marker that lacks something": lambda h: forge(h, ".o.padd-00000000", {"what": MARKER["what"]}),
    "a marker of another output": lambda h: forge(h, ".o.padd-00000000", MARKER | {"output": "p"}),
    "a name of another form": lambda h: forge(h, ".o.padd-mine", MARKER),
    "a link to a marked folder": lambda h: [forge(h, "mine", MARKER), linked(h, ".o.padd-00000000", "mine")],
    "a link to a marker": lambda h: [
        h.write("padd.json", json.dumps(MARKER)),
        h.write(".o.padd-00000000/precious.txt", "mine"),
        (h.folder / ".o.padd-00000000" / "padd.json").symlink_to("../padd.json"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("name", NEIGHBOURS)
def test_neighbours_are_never_touched(here: Here, name: str, forced: bool) -> None:
    if forced:
        here.made("o")
    NEIGHBOURS[name](here)
    before = {key: value for key, value in snapshot(here.folder).items() if key.split("/")[0] != "o"}
    flags = ("--force", "--seed", "5") if forced else ()
    assert here.padd(*here.split("o", *flags))[0] == 0
    after = snapshot(here.folder)
    assert {key: value for key, value in after.items() if key.split("/")[0] != "o"} == before
    assert open_artifact("o", "split").manifest.seed == (5 if forced else 0)


@pytest.mark.parametrize("flags", [(), ("--force",)])
def test_a_run_that_is_at_work_is_not_disturbed(here: Here, flags: tuple[str, ...]) -> None:
    live = create(here.made("o"), "split", "k")
    before = snapshot(here.folder)
    code, err = here.padd(*here.split("o", *flags))
    assert (code, err.count("error: ")) == (1, 1)
    assert f"process {os.getpid()} on {live.marker.host} is at work on o (in {live.path})" in err
    assert snapshot(here.folder) == before
    live.release()
    assert here.padd(*here.split("o", "--force"))[0] == 0
    assert not live.path.exists(), "what a dead run left is cleaned up"


def commands() -> list[StageCommand]:
    modules = [importlib.import_module(f"padd_cli.commands.{module}") for module, _ in COMMANDS.values()]
    return [module.COMMAND for module in modules if hasattr(module, "COMMAND")]


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_no_input_is_forgotten(command: StageCommand, tmp_path: Path) -> None:
    """Every path that an input names is known as one, of stages to come too."""
    for name, field in command.inputs.model_fields.items():
        path = tmp_path / name
        path.write_text("")
        needed = {other: "" for other, each in command.inputs.model_fields.items() if each.is_required()}
        value: Any = [str(path)] if "list" in str(field.annotation) else str(path)
        inputs = command.inputs.model_construct(**needed | {name: value})
        assert [str(found) for found in inputs.paths()] == [str(path)], name
    assert Inputs().paths() == []


def test_a_folder_called_like_a_benchmark_is_no_input(here: Here) -> None:
    from padd_stages.evaluate.options import EvaluateInputs

    here.write("math500/report.json", "{}")
    assert EvaluateInputs(model="m", benchmark=["math500"]).paths() == []


def test_a_report_reads_no_folder_that_a_run_works_in(here: Here) -> None:
    from padd_stages.report.runs import artifacts_in

    whole = here.artifact("run/a", "student")
    work = create(here.folder / "run" / "b", "student", "k")
    shutil.copytree(whole, work.path / "replaced")
    shutil.copytree(whole, work.artifact, dirs_exist_ok=True)
    assert [artifact.path.name for artifact in artifacts_in(here.folder / "run")] == ["a"]
    code, err = here.padd("inspect", work.path)
    assert (code, "not a padd artifact" in err) == (1, True)
    work.release()
