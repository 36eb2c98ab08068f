"""What helps to work on padd says the same as what it stands for: `make help`, the hooks, the editor's settings."""

import configparser
import re
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_make_help_lists_every_target():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    lines = [line.split(maxsplit=2) for line in shown.splitlines() if line.startswith("make ")]
    assert sorted(line[1] for line in lines) == sorted(phony[1].split())
    assert [line for line in lines if len(line) < 3] == []


def test_the_hooks_are_the_tools_of_make_lint_and_name_no_version():
    recipe = re.search(r"^lint:.*\n((?:\t.+\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe is not None
    lint = re.findall(r"\$\(BIN\)/(ruff \w+|pyright)", recipe[1])
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    [repo] = config["repos"]
    assert repo["repo"] == "local"
    assert [hook["entry"].replace(" --force-exclude", "") for hook in repo["hooks"]] == lint
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}


def test_the_editor_wraps_code_where_ruff_does():
    settings = configparser.ConfigParser()
    settings.read_string("[top]\n" + (ROOT / ".editorconfig").read_text(encoding="utf-8"))
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    assert settings.getint("*.{py,pyi}", "max_line_length") == ruff["line-length"]
