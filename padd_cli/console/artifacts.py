"""Display of artifacts and plans: tables for people, one object for programs."""

import importlib
from pathlib import Path
from typing import Any

from padd_artifacts.artifact import Artifact
from padd_artifacts.plan import Plan
from padd_cli.console.streams import cell_text, print_json, print_line, print_table, show_table

SHORT_DIGEST = 8
REPORT = "report.json"
# Of each kind of artifact the module that makes tables of its report.json; imported when one is shown.
VIEWS = {
    "clusters": "padd_stages.cluster.view",
    "comparison": "padd_stages.compare.view",
    "evaluation": "padd_stages.evaluate.view",
    "student": "padd_stages.warmup.view",
}
SUMMARY_IN_TABLES = ("evaluation", "comparison")  # kinds whose tables hold the whole summary


def short_digest(digest: str) -> str:
    """Return the first characters of a digest, as people quote it."""
    return digest[:SHORT_DIGEST]


def artifact_object(artifact: Artifact) -> dict[str, Any]:
    """Return the object that ``--json`` prints for an artifact."""
    manifest = artifact.manifest
    return {
        "path": str(artifact.path),
        "kind": manifest.kind,
        "digest": manifest.digest,
        "summary": manifest.summary,
    }


def show_artifact(artifact: Artifact, *, as_json: bool, page: str | None = None) -> None:
    """Print a stage's result: its summary and tables, its path and digest, and the file that people open."""
    opens = {} if page is None else {"page": str(artifact.path / page)}
    if as_json:
        print_json(artifact_object(artifact) | opens)
        return
    manifest = artifact.manifest
    if manifest.kind not in SUMMARY_IN_TABLES:
        print_table(manifest.kind, ("", ""), flat_rows(manifest.summary))
    if REPORT in manifest.files:
        show_report(manifest.kind, artifact.report)
    print_table("", ("", ""), [("path", artifact.path), ("digest", manifest.digest), *opens.items()])


def show_report(kind: str, report: dict[str, Any]) -> None:
    """Print the tables and notes that the view of a kind of artifact makes of its ``report.json``."""
    if kind not in VIEWS:
        return
    view = importlib.import_module(VIEWS[kind])
    for table in view.tables(report):
        show_table(table)
    for note in view.notes(report):
        print_line(note)


def flat_rows(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested numbers to rows ``outer.inner  value``; an empty mapping stays one row."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            rows += flat_rows(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", cell_text(value)))
    return rows


def show_plan(
    plan: Plan,
    sources: dict[str, str],
    *,
    out: Path | None,
    memory: dict[str, Any] | None = None,
    as_json: bool,
) -> None:
    """Print what a stage would do; ``memory`` is a Budget's JSON, of one process."""
    options = {**plan.options.method(), **plan.options.run_only(), "seed": plan.options.seed}
    if as_json:
        print_json(
            {
                "kind": plan.kind,
                "key": plan.key,
                "out": None if out is None else str(out),
                "parents": {role: parent.model_dump() for role, parent in plan.parents.items()},
                "sizes": plan.sizes,
                "memory": memory,
                "options": options,
                "sources": sources,
            }
        )
        return
    head = [("kind", plan.kind), ("key", plan.key)] + ([("out", str(out))] if out is not None else [])
    print_table("plan (nothing is written)", ("", ""), head)
    show_parents(plan.parents)
    print_table("sizes", ("", ""), flat_rows(plan.sizes))
    print_table("memory of one process, GiB", ("", ""), flat_rows(memory or {}))
    show_options(options, sources)


def show_parents(parents: dict[str, Any]) -> None:
    """Print one row per input."""
    rows = [(role, parent.kind, short_digest(parent.digest), parent.path) for role, parent in parents.items()]
    print_table("inputs", ("input", "kind", "digest", "path"), rows)


def show_options(options: dict[str, Any], sources: dict[str, str]) -> None:
    """Print one row per option, with the source of its value."""
    rows = [(name, value, sources.get(name, "")) for name, value in options.items()]
    print_table("options", ("option", "value", "from"), rows)


def show_inspection(artifact: Artifact) -> None:
    """Print the output of ``padd inspect``."""
    path, manifest = artifact.path, artifact.manifest
    provenance = manifest.provenance
    head = [
        ("path", path),
        ("kind", manifest.kind),
        ("digest", manifest.digest),
        ("schema", manifest.schema_version),
        ("created", provenance.created),
        ("command", provenance.command),
        ("commit", commit_text(provenance.commit, provenance.tree_clean)),
        ("wall time", f"{provenance.wall_seconds:.1f} s"),
        ("peak memory", f"{provenance.peak_memory_mb:.0f} MB"),
    ]
    print_table("artifact", ("", ""), [(name, value) for name, value in head if value not in ("", None)])
    print_table("summary", ("", ""), flat_rows(manifest.summary))
    if REPORT in manifest.files:
        show_report(manifest.kind, artifact.report)
    show_parents(manifest.parents)
    options = {**manifest.options, **provenance.run_options, "seed": manifest.seed}
    show_options(options, provenance.option_sources)
    files = [
        (name, f"{entry.size:,}", short_digest(entry.sha256), "timings" if entry.volatile else "")
        for name, entry in manifest.files.items()
    ]
    print_table("files", ("file", "bytes", "sha256", ""), files)
    print_table("versions", ("", ""), list(provenance.versions.items()))


def commit_text(commit: str | None, clean: bool | None) -> str:
    """Return a commit and whether the tree had changes, as text."""
    if commit is None:
        return ""
    return commit if clean else f"{commit} (with changes)"
