"""The folder that a run works in: killed at any moment, what stood at the output or a run to resume is there."""

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts import work
from padd_artifacts.artifact import open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.plan import Plan
from padd_artifacts.work import WorkFolder, create, find
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.lib.options.base import Options

OLD, NEW = Plan("split", Options(seed=1), {}), Plan("split", Options(seed=2), {})
# what Python says of before it asks the system to change files
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "fcntl.flock"}


def write(
    out: Path,
    plan: Plan = NEW,
    *,
    keeps: bool = True,
    then: Callable[[ArtifactWriter], Any] = id,
    **output: Any,
) -> None:
    """A small run; ``then`` comes before its end."""
    with ArtifactWriter(Output(out, **output), plan) as writer:
        writer.scratch.add("checkpoints")
        writer.path("checkpoints/1/state.json").write_text("1")
        if keeps:
            writer.keep()
        writer.path("inner/half.tmp").write_text("half")
        writer.write_json("report.json", {"seed": plan.options.seed})
        then(writer)


def digest(out: Path) -> str:
    return open_artifact(out).manifest.digest


def digest_of(plan: Plan, folder: Path) -> str:
    out = folder / f"apart{plan.options.seed}"
    write(out, plan)
    return digest(out)


def killed_at(number: int, folder: Path, run: Callable[[], None]) -> bool:
    """Run in a fork that is killed before its n-th change of files; False if it came to its end."""
    child = os.fork()
    if child == 0:
        left = number

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in CHANGES and (event != "open" or str(arguments[0]).startswith(str(folder))):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            run()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("keeps", [False, True])
def test_killed_at_any_change_of_files(tmp_path: Path, there: bool, keeps: bool) -> None:
    """The old artifact or the new one stands after the next command's check, and a second run ends as a first."""
    digests = [digest_of(plan, tmp_path) for plan in (OLD, NEW)]
    gaps = resumed = number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        out = folder / "o"
        if there:
            write(out, OLD)
        (folder / "o.old").mkdir(parents=True)
        if not killed_at(number, folder, lambda out=out: write(out, keeps=keeps, force=there)):
            break
        gaps += there and not out.exists()
        Output(out, force=True).check()
        waiting = Output(out).unfinished()
        if there or out.exists():
            assert digest(out) in (digests if there else digests[1:])
        assert waiting is not None or out.exists() or not resumed, "once kept, a run is not lost"
        resumed += waiting is not None
        write(out, force=True, resume=waiting is not None)
        assert digest(out) == digests[1]
        shutil.rmtree(folder / "o.old")
        shutil.rmtree(out)
        for left in folder.iterdir():  # killed between making a folder and marking it
            assert [path.name for path in left.iterdir()] in ([], ["lock"], ["lock", "padd.json.tmp"]), left
    assert number > 20
    assert gaps == (1 if there else 0), "one kill falls between the two renames"
    assert (resumed > 5) == keeps


def test_something_else_stands_where_an_artifact_is_to_be_put_back(tmp_path: Path) -> None:
    out = tmp_path / "o"
    write(out, OLD)
    left = create(out, "split", "k")
    os.replace(out, left.path / work.REPLACED)
    left.release()
    (out / "mine").mkdir(parents=True)
    for force in (False, True):
        with pytest.raises(PaddError, match=f"{left.path}/replaced stood at {out} .* cannot be put back"):
            Output(out, force=force).check()
    shutil.rmtree(out)
    with pytest.raises(PaddError, match="exists and is not overwritten"):
        Output(out).check()
    assert open_artifact(out).manifest.seed == 1


def test_what_comes_to_stand_at_the_output_meanwhile_stays(tmp_path: Path) -> None:
    """And the result is not lost."""
    out = tmp_path / "o"

    def mine(writer: ArtifactWriter) -> None:
        (out / "precious").mkdir(parents=True)

    with pytest.raises(
        PaddError, match=r"not overwritten.*; the new result is whole in .*: move it"
    ) as caught:
        write(out, then=mine, keeps=False)
    assert os.listdir(out) == ["precious"]
    [left] = find(out)
    assert str(left.artifact) in str(caught.value)
    assert open_artifact(left.artifact).manifest.seed == 2


def test_a_note_in_the_artifact_meanwhile_stays(tmp_path: Path) -> None:
    out = tmp_path / "o"
    write(out, OLD)
    with pytest.raises(PaddError, match=r"holds 'note\.txt', which padd did not write"):
        write(out, force=True, then=lambda writer: (out / "note.txt").write_text("mine"))
    assert (out / "note.txt").read_text() == "mine"
    (out / "note.txt").unlink()
    write(out, force=True, resume=True)
    assert open_artifact(out).manifest.seed == 2
    assert os.listdir(tmp_path) == ["o"]


def test_the_second_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "o"
    write(out, OLD)
    replace = os.replace

    def failing(source: Any, target: Any) -> None:
        if Path(source).name == work.ARTIFACT:
            raise OSError(5, "Input/output error", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(PaddError, match="Input/output error"):
        write(out, force=True)
    assert open_artifact(out).manifest.seed == 1


def interrupt(out: Path, plan: Plan) -> WorkFolder:
    left = create(out, plan.kind, plan.key)
    (left.artifact / "of.txt").write_text(plan.key)
    left.keep()
    left.release()
    return left


def test_of_several_interrupted_runs_that_of_the_plan_goes_on(tmp_path: Path) -> None:
    out, third = tmp_path / "o", Plan("split", Options(seed=3), {})
    runs = [interrupt(out, plan) for plan in (OLD, NEW, third)]
    empty = create(out, "split", "k")
    empty.release()
    write(out, NEW, resume=True)
    assert open_artifact(out).file("of.txt").read_text() == NEW.key
    assert [left.path for left in find(out)] == [runs[0].path, runs[2].path]
    with pytest.raises(PaddError, match=f"{runs[2].path} is of a run with other inputs or options"):
        write(out, NEW, resume=True, force=True)
    write(out, NEW, force=True)
    assert os.listdir(tmp_path) == ["o"]


def test_a_process_that_does_not_write_finds_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the second process of a launcher; another launcher's is refused."""
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("MASTER_PORT", "1")
    out = tmp_path / "o"
    interrupt(out, NEW)
    with ArtifactWriter(Output(out, resume=True), NEW) as writer:
        monkeypatch.setenv("RANK", "1")
        with ArtifactWriter(Output(out, resume=True), NEW, writes=False) as other:
            assert other.folder == writer.folder
        monkeypatch.setenv("MASTER_PORT", "2")
        with pytest.raises(PaddError, match="is at work on"):
            ArtifactWriter(Output(out, force=True), NEW, writes=False).__enter__()
    assert other.artifact.manifest.seed == 2
    monkeypatch.setattr("padd_artifacts.writer.FOLDER_TIMEOUT", 0.1)
    with pytest.raises(PaddError, match="no process of this run writes"):
        _ = ArtifactWriter(Output(out), NEW, writes=False).folder


def test_the_first_process_has_locked_the_folder_and_not_yet_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its marker still names the launcher of the run that was killed when the second process looks."""
    left = interrupt(tmp_path / "o", NEW)
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert left.claim()
    later = threading.Timer(0.3, left.sign)
    later.start()
    monkeypatch.setenv("RANK", "1")
    Output(tmp_path / "o", resume=True).check()
    later.join()
    left.release()


def test_where_files_cannot_be_locked_the_process_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*arguments: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    left = create(tmp_path / "o", "split", "k")
    assert left.is_live()
    marker = left.path / work.MARKER_NAME
    values = json.loads(marker.read_text())
    for change, live in (({"pid": 2**30}, False), ({"host": "elsewhere", "pid": 2**30}, True)):
        marker.write_text(json.dumps(values | change))
        assert find(tmp_path / "o")[0].is_live() == live


def test_the_work_folder_is_removed_by_hand(tmp_path: Path) -> None:
    with pytest.raises(PaddError, match="was removed while a run worked in it"):
        write(tmp_path / "o", then=lambda writer: shutil.rmtree(writer.folder.parent))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
def test_folders_of_other_people(capfd: pytest.CaptureFixture[str]) -> None:
    """Where padd may not write, it says so before any work: nobody's run in root's folders."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    write(folder / "theirs", OLD)
    (folder / "ours").mkdir(mode=0o777)
    (folder / "ours").chmod(0o777)
    write(folder / "ours" / "o", OLD)
    (folder / "closed").mkdir(mode=0o700)
    for out, words in (
        ("new", "may not write in"),
        ("theirs", "may not write in"),
        ("closed/x", "may not write in"),
        ("closed/x/y", "Permission denied|may not write in"),
        ("ours/o", "may not write in"),
    ):
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            try:
                with pytest.raises(PaddError, match=words):
                    Output(folder / out, force=True).check()
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 0, (out, capfd.readouterr().err)
    shutil.rmtree(folder)


def test_killed_while_an_interrupted_run_is_given_up(tmp_path: Path) -> None:
    """Nobody goes on from half of it."""
    number, lost = 0, 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        left = interrupt(folder / "o", NEW)
        for name in ("a", "b", "c"):
            (left.artifact / name).mkdir()
        if not killed_at(number, folder, lambda left=left: (left.claim(), left.remove())):
            break
        waiting = Output(folder / "o").unfinished()
        if waiting is None:
            lost += 1
        else:
            assert len(os.listdir(waiting.artifact)) == 4
    assert 2 <= lost < number
