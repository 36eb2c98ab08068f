"""What the folders promise: who may import whom, and that the package ships what the folders hold."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"padd_cli": "padd_cli", "stages": "padd_stages", "artifacts": "padd_artifacts"}
STAGES = {path.parent.name for path in (ROOT / "stages").glob("*/__init__.py")} - {"lib"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def source_of(name: str) -> Path | None:
    """The file of one of our modules."""
    package, *parts = name.split(".")
    for folder, imported in FOLDERS.items():
        file = ROOT.joinpath(folder, *parts).with_suffix(".py")
        if imported == package and file.is_file():
            return file
    return None


def test_pyproject_lists_every_package():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for folder, name in FOLDERS.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert found == listed


def test_pyproject_ships_every_file_that_is_no_source():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = {
        file
        for package, patterns in data.items()
        for pattern in patterns
        for file in folder_of(package).glob(pattern)
        if file.is_file()
    }
    files = {
        file
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    assert files == shipped
    assert {ROOT / folder / "py.typed" for folder in FOLDERS} <= shipped


def folder_of(package: str) -> Path:
    name, *parts = package.split(".")
    [folder] = [folder for folder, imported in FOLDERS.items() if imported == name]
    return ROOT.joinpath(folder, *parts)


@pytest.mark.parametrize("path", sources("stages/lib/objectives"), ids=lambda p: p.name)
def test_objectives_import_only_torch(path):
    standard = ("math", "dataclasses", "typing", "collections", "contextlib")
    allowed = ("torch", *standard, "padd_stages.lib.objectives")
    assert [name for name in imports(path) if not name.startswith(allowed)] == []


def test_a_stage_has_its_options_and_its_run():
    parts = {name: {path.name for path in (ROOT / "stages" / name).iterdir()} for name in STAGES}
    assert [name for name, files in parts.items() if "options.py" not in files] == []
    assert [name for name, files in parts.items() if not any(f.startswith("stage") for f in files)] == []
    assert {path.name for path in (ROOT / "stages").glob("*.py")} == {"__init__.py"}


@pytest.mark.parametrize("path", sources("stages"), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_stage_imports_a_stage(path):
    own = path.relative_to(ROOT / "stages").parts[0]
    others = STAGES - {own} if own != "report" else set()
    found = {n for n in imports(path) if n.startswith("padd_stages.") and n.split(".")[1] in others}
    assert found == set()


@pytest.mark.parametrize(
    "path", [*sources("stages"), *sources("artifacts")], ids=lambda p: str(p.relative_to(ROOT))
)
def test_below_the_command_line_nothing_prints_or_exits(path):
    found = imports(path)
    assert [n for n in found if n.split(".")[0] in {"typer", "rich", "click", "padd_cli"}] == []
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert calls & {"print", "exit", "quit", "input", "breakpoint"} == set()


@pytest.mark.parametrize("path", sources("artifacts"), ids=lambda p: p.name)
def test_artifacts_stand_below_the_stages(path):
    assert [n for n in imports(path) if n.startswith(("padd_stages", "padd_cli"))] == []


@pytest.mark.parametrize(
    "path",
    [*(ROOT / "stages").glob("*/options.py"), *sources("stages/lib/options")],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_options_import_no_torch(path):
    """Neither themselves nor through what they import."""
    seen, todo = set(), [path]
    while todo:
        here = todo.pop()
        seen.add(here)
        found = imports(here)
        assert [n for n in found if n.startswith(("torch", "transformers"))] == [], here
        todo += [file for name in found if (file := source_of(name)) and file not in seen]
