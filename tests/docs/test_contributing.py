"""CONTRIBUTING.md names things that are in the files that it says, and targets that the Makefile has."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LINK = re.compile(r"\[[^\]]+\]\(([\w./-]+\.py)\)")
NAME = re.compile(r"`(\w+)`")


def claims() -> list[tuple[str, str]]:
    """(name, file): what stands in backticks in a clause before the link to a Python file."""
    found = []
    for clause in re.split(r"[.;:]\s|\n\n", PAGE.partition("## A policy loss")[2]):
        start = 0
        for link in LINK.finditer(clause):
            found += [(name, link[1]) for name in NAME.findall(clause[start : link.start()])]
            start = link.end()
    return found


@pytest.mark.parametrize(("name", "file"), claims())
def test_a_name_is_in_its_file(name: str, file: str) -> None:
    assert re.search(rf"\b{name}\b", (ROOT / file).read_text(encoding="utf-8"))


def test_names_are_found() -> None:
    assert {("LossKind", "stages/lib/objectives/policy.py"), ("SECTIONS", "padd_cli/flags/config.py")} <= set(
        claims()
    )


def test_the_makefile_has_the_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`?make ([a-z-]+)", PAGE))
    assert {"lint", "test", "test-all", "docs", "lock"} <= named
    assert [name for name in named if f"\n{name}:" not in makefile] == []


def test_the_error_is_what_the_command_says() -> None:
    [shown] = re.findall(r"```text\n(.+)\n```", PAGE)
    from padd_artifacts.errors import UsageError
    from padd_stages.train.checks import check_method
    from padd_stages.train.options import TrainInputs, TrainOptions

    with pytest.raises(UsageError) as error:
        check_method(TrainInputs(student="s", split=Path("s")), TrainOptions.model_validate({}))
    assert str(error.value) == shown
