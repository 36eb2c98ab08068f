"""Reading of artifacts: hashes are checked, nothing that can run code is loaded."""

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import Manifest, Parent, artifact_digest, read_manifest, recipe_key, sha256_file

if TYPE_CHECKING:
    from torch import Tensor


class Artifact:
    """A complete artifact on disk; see :func:`open_artifact`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @cached_property
    def report(self) -> dict[str, Any]:
        """The stage's ``report.json``."""
        return self.json("report.json")

    def file(self, name: str) -> Path:
        """Return the path of one of the artifact's files; PaddError if the manifest does not list it."""
        if name not in self.manifest.files:
            raise PaddError(
                f"{self.path} holds no '{name}' (it is of kind {self.manifest.kind}), so this step has nothing "
                "to read; make the artifact again with the options that write it."
            )
        return self.path / name

    def json(self, name: str) -> Any:
        """Read a JSON file's value."""
        return json.loads(self.file(name).read_text(encoding="utf-8"))

    def jsonl(self, name: str) -> list[dict[str, Any]]:
        """Read a JSONL file's rows."""
        with self.file(name).open(encoding="utf-8") as handle:
            return [json.loads(line) for line in handle if line.strip()]

    def tensors(self, name: str) -> "dict[str, Tensor]":
        """Read a safetensors file's tensors, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.file(name))

    def as_parent(self) -> Parent:
        """Return this artifact as an input of the next stage."""
        return Parent(kind=self.manifest.kind, digest=self.manifest.digest, path=str(self.path))

    def check(self) -> None:
        """Compare every file with its hash, and the digest with both.

        Raises:
            PaddError: a file is missing or changed, or the manifest was edited.
        """
        for name in self.manifest.files:
            self.check_file(name)
        manifest = self.manifest
        key = recipe_key(manifest.kind, manifest.options, manifest.seed, manifest.parents)
        if key != manifest.key or artifact_digest(key, manifest.files) != manifest.digest:
            raise PaddError(
                f"the manifest of {self.path} does not match its own digest, so it was edited by hand; "
                "make the artifact again."
            )

    def check_file(self, name: str) -> None:
        """Compare one file with its hash; PaddError if it is missing or changed."""
        path, entry = self.path / name, self.manifest.files[name]
        if not path.is_file():
            raise PaddError(f"{path} is missing, so the artifact is not whole; make {self.path} again.")
        if path.stat().st_size != entry.size or sha256_file(path) != entry.sha256:
            raise PaddError(
                f"{path} has changed since it was written (its SHA-256 is not the manifest's), "
                f"so it is not used; make {self.path} again."
            )


def open_artifact(path: Path | str, kind: str | None = None, *, check: bool = True) -> Artifact:
    """Open an artifact.

    Args:
        path: its folder.
        kind: refuse any other kind (``split``, ``clusters``, ``student``, ``evaluation``, ``comparison``, ``experts``,
            ``report``, ``toy``).
        check: compare all hashes (one read of every file).

    Raises:
        PaddError: not an artifact, another kind, a newer schema, a missing or changed file.
    """
    folder = Path(path)
    if not folder.exists():
        raise PaddError(f"{folder} does not exist, so there is nothing to read; check the path.")
    artifact = Artifact(folder, read_manifest(folder))
    if kind is not None and artifact.manifest.kind != kind:
        raise PaddError(
            f"{folder} is an artifact of kind '{artifact.manifest.kind}' where one of kind '{kind}' is needed; "
            f"name the folder of the {kind} step."
        )
    if check:
        artifact.check()
    return artifact
