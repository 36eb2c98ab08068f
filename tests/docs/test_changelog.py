"""The changelog names the version of pyproject.toml, and import paths as they are."""

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (`padd_stages.+?) \| (`padd_stages.+?) \|$", CHANGELOG, re.MULTILINE)


def modules(cell: str) -> list[str]:
    return re.findall(r"`([\w.]+)`", cell)


def is_module(name: str) -> bool:
    """Whether ``name`` is a file of its own, as every module in the table was; a folder is none."""
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:
        return False
    return spec is not None and spec.submodule_search_locations is None


def test_the_unreleased_version_is_that_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"## Unreleased ({version})\n" in CHANGELOG


def test_import_paths_have_changed_as_the_table_says() -> None:
    before = [name for old, _ in ROWS for name in modules(old)]
    now = [name for _, new in ROWS for name in modules(new)]
    assert len(ROWS) > 10
    assert [name for name in now if not is_module(name)] == []
    assert [name for name in before if is_module(name)] == []
