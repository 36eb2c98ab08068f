"""examples/reproducibility.yml: its commands on the pico pair agree, and another seed makes the job fail."""

import shlex
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

Steps = dict[str, str]


@pytest.fixture
def job(examples: Path) -> Any:
    return yaml.safe_load((examples / "reproducibility.yml").read_text(encoding="utf-8"))


@pytest.fixture
def steps(job: Any) -> Steps:
    """Commands of the one job by the name of their step."""
    [described] = job["jobs"].values()
    return {step["name"]: step["run"] for step in described["steps"] if "run" in step}


def test_it_installs_with_hashes_the_torch_of_the_makefile(steps: Steps, examples: Path) -> None:
    makefile = (examples.parent / "Makefile").read_text(encoding="utf-8")
    make, _, path = steps["install"].partition("\n")
    words = make.split()
    assert "LOCKED=yes" in words
    [torch] = [word.removesuffix("+cpu") for word in words if word.startswith("TORCH=")]
    assert torch.replace("=", " ?= ", 1) in makefile
    ready = words[1].replace(".venv", "$(VENV)", 1)
    assert f"READY := {ready}\n" in makefile
    assert ".venv/bin" in path


def test_two_runs_agree_and_another_seed_does_not(
    here: Path, pico: Any, job: Any, steps: Steps, padd: Any
) -> None:
    values = {"TEACHER": str(pico.teacher), "STUDENT": str(pico.student), "PROBLEMS": str(pico.problems)}
    assert set(values) < set(job["env"])

    def run(name: str, *more: str) -> tuple[int, str]:
        return padd([*shlex.split(Template(steps[name]).substitute(values)), *more])

    for name in list(steps)[1:]:
        code, err = run(name)
        assert code == 0, f"{name}: {err}"
    code, err = run("second run", "--force", "--seed", "1")
    assert code == 0, err
    code, err = run("compare")
    assert code == 1
    assert "seed 0 against 1" in err
