"""Manifest of an artifact: kind, files with hashes, parents, options and provenance."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from padd_artifacts.errors import PaddError

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1
HASH_CHUNK_BYTES = 1 << 22


class FileEntry(BaseModel):
    """One file of an artifact. Volatile files (timings) are checked on read but stay outside the digest."""

    sha256: str
    size: int
    volatile: bool = False


class Parent(BaseModel):
    """An input of a stage: another artifact, a model or a plain file. ``path`` is provenance only."""

    kind: str
    digest: str
    path: str = ""


class Provenance(BaseModel):
    """Origin of an artifact: whatever is worth recording and must not change the digest."""

    model_config = ConfigDict(extra="allow")

    command: str = ""
    created: str = ""
    option_sources: dict[str, str] = Field(default_factory=dict)
    run_options: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    commit: str | None = None
    tree_clean: bool | None = None
    platform: str = ""
    wall_seconds: float = 0.0
    peak_memory_mb: float = 0.0


class Manifest(BaseModel):
    """``manifest.json``. ``key`` is known before a stage runs, ``digest`` after (it covers the files too)."""

    kind: str
    schema_version: int
    key: str
    digest: str
    seed: int
    options: dict[str, Any]
    parents: dict[str, Parent]
    files: dict[str, FileEntry]
    summary: dict[str, Any] = Field(default_factory=dict)
    provenance: Provenance = Field(default_factory=Provenance)


def canonical_json(value: Any) -> str:
    """Serialise a JSON value in the one form that is hashed: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def recipe_key(kind: str, options: dict[str, Any], seed: int, parents: dict[str, Parent]) -> str:
    """Return the hash of what an artifact is made *from*: a stage run again with an equal key changes nothing."""
    recipe = {
        "kind": kind,
        "schema_version": SCHEMA_VERSION,
        "options": options,
        "seed": seed,
        "parents": {role: [parent.kind, parent.digest] for role, parent in parents.items()},
    }
    return hashlib.sha256(canonical_json(recipe).encode()).hexdigest()


def artifact_digest(key: str, files: dict[str, FileEntry]) -> str:
    """Return the hash of what an artifact *is*: its recipe and the bytes of its files, the volatile ones left out."""
    stable = {name: entry.sha256 for name, entry in files.items() if not entry.volatile}
    return hashlib.sha256(canonical_json({"key": key, "files": stable}).encode()).hexdigest()


def file_parent(path: Path) -> Parent:
    """Return a plain input file as a parent, identified by the hash of its bytes."""
    return Parent(kind="file", digest=sha256_file(path), path=str(path))


def read_manifest(folder: Path) -> Manifest:
    """Parse ``folder/manifest.json``.

    Raises:
        PaddError: no manifest, broken JSON, a newer schema, or fields that are missing.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise PaddError(
            f"{folder} is not a padd artifact (it has no {MANIFEST_NAME}), so it cannot be read; "
            "name the folder that a padd command wrote."
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PaddError(
            f"{path} is not valid JSON ({error}), so the artifact cannot be trusted; make it again."
        ) from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise PaddError(
            f"{folder} has artifact schema {version} and this padd reads up to {SCHEMA_VERSION}, "
            "so it is not read; upgrade padd or make the artifact again."
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise PaddError(
            f"{path} lacks or misstates '{where}', so the artifact cannot be trusted; make it again."
        ) from error
