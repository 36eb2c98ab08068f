"""docs/CLI.md is what --help says now."""

import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

from padd_cli.app import COMMANDS
from padd_cli.reference import WIDTH, help_text, reference

PAGE = Path(__file__).parents[2] / "docs" / "CLI.md"


def letters(text: str) -> Counter[str]:
    """Which characters a text has, however another version of typer draws boxes and wraps lines."""
    return Counter(re.sub(r"[\s─│╭╮╰╯┃]", "", text))


def test_the_page_is_current() -> None:
    expected, found = (_sections(text) for text in (reference(), PAGE.read_text(encoding="utf-8")))
    assert list(found) == list(expected)
    stale = [title for title in expected if letters(found[title]) != letters(expected[title])]
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
