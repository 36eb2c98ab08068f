"""A fake stage of two inputs and a handful of option shapes, so that the machinery is tested without torch."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import Field, model_validator

import padd_cli.app as padd_app
from padd_artifacts.artifact import Artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import Parent
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_cli.stage_command import StageCommand, stage_app
from padd_stages.lib.options.base import Artifacts, Inputs, Method, Options, Run, Training

FAKE_MODULE = "padd_fake_stage"


class FakeInputs(Inputs):
    teacher: Annotated[str, Artifacts("Dense teacher.")]
    student: Annotated[str | None, Artifacts("MoE student [optional].")] = None
    extras: Annotated[list[Path], Artifacts("More files.")] = Field(default_factory=list)


class FakeOptions(Options):
    xi: Annotated[float, Method("Temperature.")] = Field(1.0, gt=0)
    steps: Annotated[int, Training("Steps.")] = Field(10, ge=1)
    routing: Annotated[Literal["off", "old"], Method("Routing.")] = "old"
    normalize: Annotated[bool, Method("Normalise rows.")] = True
    ratios: Annotated[tuple[float, float, float], Method("Shares.")] = (0.2, 0.3, 0.5)
    limit: Annotated[int | None, Method("Only the first.")] = None
    learning_rate: Annotated[float, Training("Peak learning rate.")] = Field(1e-5, gt=0)
    device: Annotated[str, Run("Device.")] = "auto"

    @model_validator(mode="after")
    def _steps_and_limit(self) -> "FakeOptions":
        if self.limit is not None and self.limit > self.steps:
            raise ValueError(f"--limit {self.limit} is more than --steps {self.steps}; lower it.")
        return self


FAKE = StageCommand(
    name="cluster",
    stage=FAKE_MODULE,
    inputs=FakeInputs,
    options=FakeOptions,
    help="A fake [stage].",
    reads="a teacher.",
    writes="a fake.",
    example="padd cluster --teacher T --out O",
    resumable=True,
    method_presets=True,
)


def fake_plan(inputs: FakeInputs, options: FakeOptions) -> Plan:
    if inputs.teacher == "nowhere":
        raise PaddError("'nowhere' is no model, so nothing can be clustered; name another.")
    parents = {"teacher": Parent(kind="model", digest=f"digest of {inputs.teacher}", path=inputs.teacher)}
    return Plan("clusters", options, parents, {"rows": 7})


def fake_run(inputs: FakeInputs, options: FakeOptions, output: Output, reporter: Any) -> Artifact:
    if inputs.teacher == "crash":
        raise ZeroDivisionError("division by zero")
    if inputs.teacher == "interrupt":
        raise KeyboardInterrupt
    print("a library prints what it likes")
    with ArtifactWriter(output, fake_plan(inputs, options)) as writer:
        reporter.phase("working", 2)
        reporter.advance(2, "both at once")
        writer.write_json("report.json", {"xi": options.xi})
        writer.summary.update(xi=options.xi, nested={"steps": options.steps})
    return writer.artifact


@pytest.fixture(autouse=True)
def no_padd_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests start without PADD_* variables, in a plain terminal of 80 columns."""
    for name in [name for name in os.environ if name.startswith("PADD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def fake_stage(monkeypatch: pytest.MonkeyPatch) -> StageCommand:
    """`padd cluster` is the fake command while a test runs."""
    module = ModuleType(FAKE_MODULE)
    module.plan, module.run = fake_plan, fake_run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, FAKE_MODULE, module)
    monkeypatch.setattr(padd_app, "load_command", lambda name: typer.main.get_command(stage_app(FAKE)))
    return FAKE


@dataclass(frozen=True)
class Result:
    """What one command line did."""

    code: int
    out: str
    err: str


@pytest.fixture
def padd(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command line in this process."""

    def call(*argv: object) -> Result:
        capsys.readouterr()
        code = padd_app.exit_code([str(word) for word in argv])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def make_artifact(tmp_path: Path) -> Callable[..., Artifact]:
    """Write a small artifact; keyword arguments are options of the fake stage."""

    def make(
        name: str = "made", *, parents: dict[str, Parent] | None = None, text: str = "{}\n", **options: Any
    ) -> Artifact:
        plan = Plan("clusters", FakeOptions(**options), parents or {}, {})
        output = Output(tmp_path / name, command="padd cluster", option_sources={"xi": "flag"})
        with ArtifactWriter(output, plan) as writer:
            writer.path("data.json").write_text(text)
            writer.summary.update(accuracy=0.5, xi=plan.options.xi)  # type: ignore[attr-defined]
        return writer.artifact

    return make
