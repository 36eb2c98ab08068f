"""Writing artifacts: everything goes to ``<out>.partial``; the manifest comes last; one rename makes it real."""

import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    FileEntry,
    Manifest,
    artifact_digest,
    sha256_file,
)
from padd_artifacts.plan import Plan
from padd_artifacts.provenance import collect_provenance

if TYPE_CHECKING:
    from torch import Tensor


# Stands in the folder of an interrupted run from which another can go on.
RESUME_NAME = "resume.json"


@dataclass(frozen=True)
class Output:
    """Where an artifact goes and how the call came about."""

    out: Path
    force: bool = False
    resume: bool = False
    command: str = ""
    option_sources: dict[str, str] = field(default_factory=dict)

    @property
    def partial(self) -> Path:
        """The folder of the work in progress."""
        return self.out.with_name(self.out.name + ".partial")

    @property
    def unfinished(self) -> str | None:
        """The recipe key of the interrupted run that waits to be resumed here; None if there is none."""
        note = self.partial / RESUME_NAME
        return json.loads(note.read_text(encoding="utf-8"))["key"] if note.is_file() else None

    def check(self) -> None:
        """Refuse to overwrite, and refuse to resume from nothing.

        Raises:
            PaddError: the output exists (no ``force``), or ``resume`` was asked for and nothing was kept.
        """
        if self.out.exists() and not self.force:
            raise PaddError(
                f"{self.out} exists and is not overwritten; name another --out, or --force to replace it."
            )
        if self.resume and self.unfinished is None:
            raise PaddError(
                f"there is no unfinished run at {self.partial} to go on from, so there is nothing to resume; "
                "leave --resume out to start."
            )


class ArtifactWriter:
    """Context manager that collects an artifact's files and seals them with a manifest.

    On an exception the partial folder goes away, unless a stage that can resume has said :meth:`keep`, which it
    does once there is something to go on from.
    """

    def __init__(self, output: Output, plan: Plan, *, writes: bool = True) -> None:
        """writes: False in all but one process of a run; such a writer checks, and touches no file itself."""
        self.writes = writes
        self.output = output
        self.plan = plan
        self.folder = output.partial
        self.summary: dict[str, Any] = {}
        self._kept = False
        self.volatile: set[str] = set()
        # Names in the folder that only an interrupted run needs; they go once the artifact stands.
        self.scratch: set[str] = {RESUME_NAME}
        self._artifact: Artifact | None = None
        self._started = time.monotonic()

    @property
    def artifact(self) -> Artifact:
        """The finished artifact, once the context has closed."""
        if not self.writes:
            return open_artifact(self.output.out, check=False)
        if self._artifact is None:
            raise RuntimeError("the artifact is only there after the writer has closed")
        return self._artifact

    def __enter__(self) -> Self:
        self.output.check()
        if self.output.resume and self.output.unfinished != self.plan.key:
            raise PaddError(
                f"{self.folder} is of a run with other inputs or options, so it is not resumed; "
                "give that run's options again, or start anew without --resume."
            )
        if not self.writes:
            return self
        if self.folder.exists() and not self.output.resume:
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._kept = self.output.resume  # what an earlier run left is not this one's to throw away
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.writes:
            return
        if kind is None:
            self._seal()
        elif not self._kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    def keep(self) -> None:
        """From here on an interrupted run leaves its folder, for another to resume."""
        if not self._kept:
            temporary = self.path(RESUME_NAME + ".tmp")
            temporary.write_text(json.dumps({"key": self.plan.key}), encoding="utf-8")
            os.replace(temporary, self.folder / RESUME_NAME)
        self._kept = True

    def path(self, name: str, *, volatile: bool = False) -> Path:
        """Where to write a file of one's own; its folder is made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if volatile:
            self.volatile.add(name)
        return path

    def write_json(self, name: str, value: Any, *, volatile: bool = False) -> None:
        """Write one JSON value, indented, keys in the order given."""
        text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
        self.path(name, volatile=volatile).write_text(text + "\n", encoding="utf-8")

    def write_jsonl(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Write rows, one JSON object a line."""
        with self.path(name).open("w", encoding="utf-8") as handle:
            for row in rows:
                handle.write(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n")

    def write_tensors(self, name: str, tensors: "dict[str, Tensor]") -> None:
        """Write tensors as safetensors."""
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in tensors.items()}, self.path(name))

    def _content(self) -> list[str]:
        """The artifact's files; what a kill left half written ends in .tmp."""
        paths = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return sorted(
            path.as_posix()
            for path in paths
            if path.parts[0] not in {MANIFEST_NAME, *self.scratch} and path.suffix != ".tmp"
        )

    def _seal(self) -> None:
        """Manifest, then the rename, then the scratch goes: a kill before the rename leaves a run to resume."""
        plan = self.plan
        names = self._content()
        files = {
            name: FileEntry(
                sha256=sha256_file(self.folder / name),
                size=(self.folder / name).stat().st_size,
                volatile=name in self.volatile,
            )
            for name in names
        }
        manifest = Manifest(
            kind=plan.kind,
            schema_version=SCHEMA_VERSION,
            key=plan.key,
            digest=artifact_digest(plan.key, files),
            seed=plan.options.seed,
            options=plan.options.method(),
            parents=plan.parents,
            files=files,
            summary=self.summary,
            provenance=collect_provenance(
                command=self.output.command,
                option_sources=self.output.option_sources,
                run_options=plan.options.run_only(),
                wall_seconds=time.monotonic() - self._started,
            ),
        )
        temporary = self.folder / (MANIFEST_NAME + ".tmp")
        temporary.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, self.folder / MANIFEST_NAME)
        replace_folder(self.folder, self.output.out)
        for name in self.scratch:
            _remove(self.output.out / name)
        self._artifact = Artifact(self.output.out, manifest)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace_folder(new: Path, target: Path) -> None:
    """Move ``new`` to ``target``; an older ``target`` is removed only after the new one stands."""
    old = target.with_name(target.name + ".old")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
