"""A disk that fills up: one sentence with the numbers, and nothing half-written."""

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from padd_artifacts.artifact import open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.plan import Plan
from padd_artifacts.space import NoSpace, full_clause, os_sentence, reserving_space, size_text
from padd_artifacts.work import find
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.lib.options.base import Options

PLAN = Plan("split", Options(), {})
SMALL = 1 << 20  # bytes of the small disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def write(out: Path, then: Callable[[ArtifactWriter], Any], **output: Any) -> None:
    with ArtifactWriter(Output(out, **output), PLAN) as writer:
        then(writer)


def fill(writer: ArtifactWriter) -> None:
    writer.path("big.bin").write_bytes(bytes(2 * SMALL))


def test_a_real_disk_runs_full(small_disk: Path) -> None:
    out = small_disk / "o"
    with pytest.raises(PaddError) as caught:
        write(out, fill)
    sentence = str(caught.value)
    assert re.match(r"the disk ran full while big.bin was being written \(0 bytes are free, and ", sentence)
    assert sentence.endswith(f"so {out} was not made and nothing is left of the run; make space, or name an --out "
                             "on another disk.")  # fmt: skip
    assert os.listdir(small_disk) == []
    write(out, lambda writer: writer.write_json("report.json", {}))
    assert open_artifact(out)


@pytest.mark.parametrize("library", ["safetensors", "jsonl"])
def test_libraries_on_a_full_disk(small_disk: Path, library: str) -> None:
    (small_disk / "ballast").write_bytes(bytes(SMALL // 2))
    rows = ({"text": "x" * 1000} for _ in range(SMALL // 1000))

    def save(writer: ArtifactWriter) -> None:
        if library == "jsonl":
            writer.write_jsonl("rows.jsonl", rows)
        else:
            from safetensors.torch import save_file

            save_file({"a": torch.zeros(SMALL, dtype=torch.int8)}, writer.path("a.safetensors"))

    with pytest.raises(PaddError, match=r"the disk ran full.* are free, and the run takes"):
        write(small_disk / "o", save)
    assert os.listdir(small_disk) == ["ballast"]


def test_a_run_that_kept_something_goes_on_once_there_is_space(small_disk: Path) -> None:
    out = small_disk / "o"

    def keep_and_fill(writer: ArtifactWriter) -> None:
        writer.path("checkpoint.bin").write_bytes(bytes(1000))
        writer.keep()
        with (writer.path("log.jsonl")).open("ab") as log:
            log.write(bytes(2 * SMALL))

    with pytest.raises(PaddError, match="so the run stopped; make space and go on with --resume") as caught:
        write(out, keep_and_fill)
    [left] = find(out)
    assert str(left.path) in str(caught.value)
    assert left.resumable
    with pytest.raises(PaddError, match=f"the disk ran full while {out} .*, so the run stopped; make space"):
        write(out, lambda writer: None, resume=True)  # still full: its lock has no place
    (left.artifact / "log.jsonl").unlink()
    write(out, lambda writer: None, resume=True)
    assert open_artifact(out).file("checkpoint.bin").stat().st_size == 1000


def test_tensors_that_do_not_fit_are_not_begun(small_disk: Path) -> None:
    def save(writer: ArtifactWriter) -> None:
        writer.write_tensors("a.safetensors", {"a": torch.zeros(2 * SMALL, dtype=torch.int8)})

    with pytest.raises(
        PaddError, match=r"a.safetensors needs 2.1 MB and 1.0\d MB are free on the disk, so .*o was"
    ):
        write(small_disk / "o", save)
    assert os.listdir(small_disk) == []


def full(message: str = "No space left on device", number: int = errno.ENOSPC) -> OSError:
    return OSError(number, message)


def chained(inner: Exception, outer: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


FULL = {
    "ENOSPC": full(),
    "EDQUOT": full("Disk quota exceeded", errno.EDQUOT),
    "safetensors": SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    ),
    "quota, safetensors": SafetensorError("I/O error: Disk quota exceeded (os error 122)"),
    "torch": RuntimeError(
        "[enforce fail at inline_container.cc:664] . unexpected pos: No space left on device"
    ),
    "wrapped": chained(
        full(), RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")
    ),
}


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("keeps", [False, True])
def test_however_a_library_says_it(tmp_path: Path, name: str, keeps: bool) -> None:
    def fail(writer: ArtifactWriter) -> None:
        writer.path("model.safetensors").write_bytes(bytes(2000))
        if keeps:
            writer.keep()
        raise FULL[name]

    with pytest.raises(PaddError, match=r"ran full while model\.safetensors was being") as caught:
        write(tmp_path / "o", fail)
    assert ("--resume" in str(caught.value)) == keeps
    assert caught.value.exit_code == 1
    assert [path.is_dir() for path in tmp_path.iterdir()] == [True] * keeps


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), RuntimeError("os error 281"), ValueError()]
)
def test_other_errors_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    def fail(writer: ArtifactWriter) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        write(tmp_path / "o", fail)
    assert caught.value is error
    assert full_clause(error) is None
    assert os_sentence(error) is None
    assert os.listdir(tmp_path) == []


def test_the_manifest_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path.write_text

    def fail(path: Path, *arguments: Any, **keywords: Any) -> int:
        if path.name == "manifest.json.tmp":
            raise full()
        return text(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(PaddError, match="the disk ran full"):
        write(tmp_path / "o", lambda writer: writer.write_json("report.json", {}))
    assert os.listdir(tmp_path) == []


def test_a_known_size_is_compared_with_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with reserving_space(tmp_path, 1000, "it"):
        pass
    with pytest.raises(NoSpace, match=r"^it needs 1 kB and 1 kB are free on the disk, so it was not"):
        reserving_space(tmp_path, 1001, "it").__enter__()
    with pytest.raises(
        NoSpace, match=r"^it needs 7 bytes and the disk ran full while .* \(1 kB are free\), so"
    ):
        fail_in(reserving_space(tmp_path, 7, "it"), FULL["safetensors"])
    with pytest.raises(ValueError):
        fail_in(reserving_space(tmp_path, 7, "it"), ValueError())


def fail_in(context: Any, error: Exception) -> None:
    with context:
        raise error


def test_elsewhere_it_is_one_sentence_too(tmp_path: Path) -> None:
    named = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "no" / "cache"))
    sentence = os_sentence(named)
    assert sentence is not None
    assert re.fullmatch(
        rf"the disk ran full while {named.filename} was being written \(.* are free\), so the .*", sentence
    )
    assert os_sentence(full()) == (
        "a disk that padd writes to ran full, so the command stopped; make space and run it again."
    )
    closed = PermissionError(errno.EACCES, "Permission denied", "data.jsonl")
    assert os_sentence(closed) == (
        "data.jsonl cannot be used (Permission denied), so the command stopped; check the path and who may read and "
        "write it."
    )
    assert os_sentence(FileNotFoundError(errno.ENOENT, "No such file", "data.jsonl")) is None


def test_a_read_only_disk(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(PaddError, match=r"may not write in|Read-only file system"):
        Output(small_disk / "o").check()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (15_000_000, "15 MB"), (6.12e10, "61.2 GB")],
)
def test_sizes_as_people_read_them(size: float, text: str) -> None:
    assert size_text(size) == text
