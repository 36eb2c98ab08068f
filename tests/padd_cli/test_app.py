"""The root: fast help without torch, every command listed, version."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest

from padd_cli.app import COMMANDS

Padd = Callable[..., Any]
HELP_RATIO = 1.5
HEAVY = ("torch", "transformers", "numpy", "faiss", "datasets")
PROBE = """
import sys
from padd_cli.app import exit_code
code = exit_code({argv!r})
print("CODE", code, "HEAVY", [name for name in {heavy!r} if name in sys.modules])
"""


def test_help_takes_little_more_than_typer_itself() -> None:
    """Beside an app of one empty command, in processor time: no machine is slow and none too busy for that."""
    empty = "import typer; app = typer.Typer(rich_markup_mode='rich'); app.command()(lambda: None); app(['--help'])"
    ours = "from padd_cli.app import main; main(['--help'])"
    typer, padd = (min(_seconds(code) for _ in range(3)) for code in (empty, ours))
    assert padd < HELP_RATIO * typer, f"padd --help took {padd:.2f} s, an empty app {typer:.2f} s"


def _seconds(code: str) -> float:
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


@pytest.mark.parametrize(
    "argv", [["--help"], ["train", "--help"], ["eval", "--model"], ["run", "--help"], ["compare", "--help"]]
)
def test_no_heavy_import_before_a_stage_runs(argv: list[str]) -> None:
    probe = PROBE.format(argv=argv, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("HEAVY []")


def test_help_lists_every_command(padd: Padd) -> None:
    result = padd("--help")
    assert result.code == 0
    for name in COMMANDS:
        assert name in result.out
    assert padd().out.rstrip() == result.out.rstrip()


def test_version(padd: Padd) -> None:
    assert padd("--version").out == f"padd {metadata.version('padd')}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_that_ends_with_an_example(padd: Padd, name: str) -> None:
    leaves = [[name, "unpack"], [name, "build"]] if name == "toy" else [[name]]
    for leaf in leaves:
        result = padd(*leaf, "--help")
        assert result.code == 0, result.err
        words = " ".join(result.out.split())
        assert "Reads: " in words
        assert "Writes: " in words
        assert f"Example: padd {' '.join(leaf)}" in words
