"""Examples are run as they stand: their commands in a folder that has `examples` in it, on the pico pair."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from padd_cli.app import exit_code

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# What makes a run take a second; the environment wins over --config and loses to what an example itself says.
TINY = {
    "PADD_STEPS": "1",
    "PADD_PROMPTS_PER_STEP": "2",
    "PADD_NUM_GENERATIONS": "2",
    "PADD_MAX_COMPLETION_LENGTH": "6",
    "PADD_MAX_NEW_TOKENS": "6",
    "PADD_WORKERS": "1",
    "PADD_DEVICE": "cpu",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the example's commands run in, with options that make runs short in the environment."""
    (tmp_path / "examples").symlink_to(EXAMPLES, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PADD_DATA", raising=False)
    for name, value in TINY.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def command() -> Callable[[str], list[str]]:
    """The one `padd` command in the head of an example, as words."""

    def read(name: str) -> list[str]:
        text = re.sub(r"^# ?", "", (EXAMPLES / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
        [found] = re.findall(r"^ +(padd (?:.*\\\n)*.*)$", text, re.MULTILINE)
        return shlex.split(found.replace("\\\n", " "))

    return read


@pytest.fixture
def padd(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], tuple[int, str]]:
    """Run a command in this process: its exit code, and what it said on stderr."""

    def call(words: list[str]) -> tuple[int, str]:
        assert words[0] == "padd"
        capsys.readouterr()
        code = exit_code(words[1:])
        return code, capsys.readouterr().err

    return call


@pytest.fixture
def examples() -> Path:
    return EXAMPLES
