"""docs/CLI.md is what --help says now."""

import inspect
import re
from importlib import metadata
from pathlib import Path

import pytest

from padd_cli.app import COMMANDS
from padd_cli.reference import WIDTH, help_text, reference

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "CLI.md"
CONSTRAINTS = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_the_page_is_current() -> None:
    for name in ("typer", "rich"):  # they word and draw help in their own way
        if f"{name}=={metadata.version(name)}" not in CONSTRAINTS:
            pytest.skip(f"the page is made with the {name} of requirements/constraints.txt")
    expected, found = (_sections(text) for text in (reference(), PAGE.read_text(encoding="utf-8")))
    assert list(found) == list(expected)
    stale = [title for title in expected if found[title] != expected[title]]
    assert stale == [], "run `make docs`"


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^#{1,3} (padd.*)$", text, flags=re.MULTILINE)
    return dict(zip(["head", *parts[1::2]], parts[::2], strict=True))


def test_every_command_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"## padd {name}\n" in text


@pytest.mark.parametrize("columns", ["40", "200"])
def test_the_terminal_does_not_matter(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    here = help_text(["verify"])
    monkeypatch.setenv("COLUMNS", columns)
    assert help_text(["verify"]) == here
    assert max(len(line) for line in here.splitlines()) <= WIDTH
    assert "\x1b" not in here
    assert inspect.cleandoc(here) == here.strip()
