"""Writing of artifacts: into a hidden folder beside ``out``, the manifest last; a rename publishes them."""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from padd_artifacts import work
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
from padd_artifacts.output import Output
from padd_artifacts.plan import Plan
from padd_artifacts.provenance import collect_provenance
from padd_artifacts.space import explaining_output_errors, full_clause, refused_clause, reserving_space
from padd_artifacts.target import real_path
from padd_artifacts.work import WorkFolder

if TYPE_CHECKING:
    from torch import Tensor

FOLDER_TIMEOUT = 60.0  # seconds that a network file system may take to show another machine's folder


class ArtifactWriter:
    """Context manager that collects an artifact's files and seals them with a manifest.

    On an exception the work folder is removed, unless a resumable stage has called :meth:`keep`, which it does once
    there is something to resume from.
    """

    def __init__(self, output: Output, plan: Plan, *, writes: bool = True) -> None:
        """Set up; with ``writes`` False (all but one process of a run) the writer checks and touches no file."""
        self.writes = writes
        self.output = output
        self.plan = plan
        self.summary: dict[str, Any] = {}
        self.volatile: set[str] = set()
        # Names in the folder that only an interrupted run needs; they do not come into the artifact.
        self.scratch: set[str] = set()
        self._work: WorkFolder | None = None
        self._kept = self._whole = False
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

    @property
    def folder(self) -> Path:
        """Where the artifact's files are written; a process that does not write finds it by its marker.

        Raises:
            PaddError: no process writes there.
        """
        deadline = time.monotonic() + FOLDER_TIMEOUT
        while self._work is None:
            for folder in work.find(real_path(self.output.out)):
                if folder.marker.key == self.plan.key and folder.is_live():
                    self._work = folder
                    return folder.artifact
            if time.monotonic() > deadline:
                raise PaddError(
                    f"no process of this run writes {self.output.out}, so the run stops; see what the others say."
                )
            time.sleep(0.05)
        return self._work.artifact

    def __enter__(self) -> Self:
        output = self.output
        output.check(self.plan)
        waiting = output.unfinished(self.plan.key) if output.resume else None
        if waiting is not None and waiting.marker.key != self.plan.key:
            raise PaddError(
                f"{waiting.path} is of a run with other inputs or options, so it is not resumed; "
                "give that run's options again, or start anew without --resume."
            )
        if self.writes:
            with explaining_output_errors(output.out):
                self._work = self._start(waiting)
            self._kept = waiting is not None  # an earlier run's work is not to be deleted by this one
        return self

    def _start(self, waiting: WorkFolder | None) -> WorkFolder:
        """Lock the work folder to resume, or a new one, and remove those that no run will resume."""
        place = real_path(self.output.out)
        own = waiting or work.create(place, self.plan.kind, self.plan.key)
        try:
            if waiting is not None:
                if not waiting.claim():
                    raise self.output.occupied_error(waiting)
                waiting.sign()
                waiting.bring_back()
            for other in work.find(place):
                if other.path == own.path or (waiting is not None and other.resumable):
                    continue
                if not other.claim():  # it has started at the same moment
                    raise self.output.occupied_error(other)
                other.remove()
        except BaseException:
            if waiting is None:
                own.remove()
            own.release()
            raise
        return own

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.writes or self._work is None:
            return
        failure = error
        try:
            if failure is None:
                self._seal(self._work)
        except BaseException as caught:
            failure = caught
        sentence = self._sentence(failure, self._work) if isinstance(failure, Exception) else None
        if not self._kept and not self._whole:
            self._work.remove()
        self._work.release()
        if sentence is not None:
            raise PaddError(sentence) from failure
        if failure is not error and failure is not None:
            raise failure

    def _sentence(self, error: BaseException, folder: WorkFolder) -> str | None:
        """Describe a full disk or a refused file for this run; None for any other error."""
        out = self.output.out
        if self._whole and isinstance(error, PaddError | OSError):
            return (
                f"{str(error).rstrip('.')}; the new result is whole in {folder.artifact}: move it, before another run "
                "to this output removes it."
            )
        if isinstance(error, OSError) and not folder.artifact.is_dir():
            return f"{folder.path} was removed while a run worked in it, so {out} was not made; run it again."
        full = full_clause(error, folder.artifact)
        if full is not None and self._kept:
            return (
                f"{full}, so the run stopped; make space and go on with --resume, for which all is whole in "
                f"{folder.path}."
            )
        if full is not None:
            return (
                f"{full}, so {out} was not made and nothing is left of the run; make space, or name an --out on "
                "another disk."
            )
        refused = refused_clause(error)
        if refused is None or str(folder.path) not in refused:
            return None
        return f"{refused}, so {out} was not made; mend that, or name another --out."

    def keep(self) -> None:
        """Mark the run as resumable: from here on an interrupted run leaves its folder."""
        if not self._kept and self._work is not None:
            self._work.keep()
        self._kept = True

    def path(self, name: str, *, volatile: bool = False) -> Path:
        """Return the path at which the caller writes a file; its folder is made."""
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
        """Write tensors as safetensors; NoSpace if they do not fit on the disk."""
        from safetensors.torch import save_file

        path = self.path(name)
        with reserving_space(path.parent, sum(value.nbytes for value in tensors.values()), name):
            save_file({key: value.contiguous() for key, value in tensors.items()}, path)

    def _content(self, folder: Path) -> list[str]:
        """Return the names of the artifact's files; half-written files and empty folders are removed."""
        found = [
            path for path in sorted(folder.rglob("*"), reverse=True) if not self._is_scratch(folder, path)
        ]
        for path in found:
            if path.suffix == ".tmp" and path.is_file():
                path.unlink()
            elif path.is_dir() and not os.listdir(path):
                path.rmdir()
        names = (path.relative_to(folder).as_posix() for path in reversed(found) if path.is_file())
        return sorted(name for name in names if name != MANIFEST_NAME)

    def _is_scratch(self, folder: Path, path: Path) -> bool:
        return path.relative_to(folder).parts[0] in self.scratch

    def _seal(self, folder: WorkFolder) -> None:
        """Write the manifest, move the scratch aside and the artifact to its place.

        A kill before the last of these leaves a run to resume, where there was one.
        """
        manifest = self._manifest(folder.artifact)
        temporary = folder.artifact / (MANIFEST_NAME + ".tmp")
        temporary.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, folder.artifact / MANIFEST_NAME)
        self._whole = True
        folder.set_aside(self.scratch)
        with explaining_output_errors(self.output.out):
            self.output.check_target(self.plan)
            folder.place(real_path(self.output.out))
        folder.remove()
        self._artifact = Artifact(self.output.out, manifest)

    def _manifest(self, folder: Path) -> Manifest:
        plan = self.plan
        files = {
            name: FileEntry(
                sha256=sha256_file(folder / name),
                size=(folder / name).stat().st_size,
                volatile=name in self.volatile,
            )
            for name in self._content(folder)
        }
        return Manifest(
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
