"""Steps of ``padd run``: their order, their folders, and whether and why each has to run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from padd_artifacts.artifact import Artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.manifest import Manifest
from padd_artifacts.plan import Plan
from padd_artifacts.target import existing_manifest
from padd_cli.console.artifacts import short_digest
from padd_cli.flags.ablations import without_of
from padd_cli.flags.config import Config, nearest

TEACHER_GRPO = "teacher-grpo"
TRAINED = "trained"  # what tables call the result of a run, whatever its folder is called
MOST_CHANGES_SHOWN = 6


class PipelineSettings(BaseModel):
    """Section ``pipeline:`` of a preset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["toy", "files"] = "files"
    problems: str | None = None
    teacher: str | None = None
    student: str | None = None
    teacher_tuned: bool = False
    without: tuple[str, ...] = ()
    launch: str | None = None


@dataclass(frozen=True)
class Step:
    """One step: ``inputs`` are the command's input flags; ``needs`` are the steps before it."""

    name: str
    command: str
    section: str
    out: Path
    inputs: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


def pipeline_settings(
    config: Config, *, teacher: str | None = None, student: str | None = None
) -> PipelineSettings:
    """Read the section ``pipeline:``; ``teacher`` and ``student`` take the place of its own.

    Raises:
        UsageError: no such section, an unknown key, a wrong value.
    """
    if "pipeline" not in config.sections:
        raise UsageError(
            f"{config.name} has no section 'pipeline:', so `padd run` does not know what to start from; "
            "add one with teacher, student and problems, or with 'source: toy'."
        )
    values: dict[str, Any] = config.section("pipeline", PipelineSettings.model_fields)
    given = {"teacher": teacher, "student": student}
    values |= {name: value for name, value in given.items() if value is not None}
    values |= {"without": without_of(config)}
    try:
        settings = PipelineSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"'{first['loc'][0]}' in section 'pipeline:' of {config.name} is {first['input']!r}, "
            f"which is not allowed ({first['msg']})."
        ) from error
    missing = [name for name in ("teacher", "student") if getattr(settings, name) is None]
    if settings.source == "files" and missing:
        raise UsageError(
            f"section 'pipeline:' of {config.name} names no {' and no '.join(missing)}; "
            "give model names, or set 'source: toy'."
        )
    return settings


def pipeline_steps(settings: PipelineSettings, root: Path) -> list[Step]:
    """Return the steps in order, each with its folder under ``root`` and its inputs."""
    toy = root / "toy"
    from_toy = settings.source == "toy"
    first = ("toy",) if from_toy else ()
    teacher = settings.teacher or str(toy / "teacher")
    student = settings.student or str(toy / "student")
    problems = settings.problems or (str(toy / "problems.jsonl") if from_toy else None)
    split = {"split": str(root / "split")}
    steps = [Step("toy", "toy", "", toy)] if from_toy else []
    given = {"problems": problems} if problems is not None else {}
    steps.append(Step("split-data", "split-data", "split-data", root / "split", given, first))
    tuned: tuple[str, ...] = ()
    if not settings.teacher_tuned:
        inputs = {"student": teacher, **split}
        out = root / TEACHER_GRPO
        steps.append(Step(TEACHER_GRPO, "train", TEACHER_GRPO, out, inputs, (*first, "split-data")))
        teacher, tuned = str(out), (TEACHER_GRPO,)
    pair = {"teacher": teacher, "student": student, **split}
    clusters = {"clusters": str(root / "clusters")}
    needs = (*first, *tuned, "split-data")
    steps.append(Step("cluster", "cluster", "cluster", root / "clusters", pair, needs))
    steps.append(Step("warmup", "warmup", "warmup", root / "warmup", pair | clusters, (*needs, "cluster")))
    trained = pair | {"student": str(root / "warmup")}
    steps.append(Step("train", "train", "train", root / "train", trained, (*needs, "warmup")))
    steps += _evaluations(root, (teacher, (*first, *tuned)), (student, first))
    routed = (
        pair | clusters | {"student": str(root / "train"), "stage1": str(root / "warmup"), "base": student}
    )
    before = (*needs, "cluster", "warmup", "train")
    steps.append(
        Step("analyze-experts", "analyze-experts", "analyze-experts", root / "experts", routed, before)
    )
    report_inputs = {"runs": f"{TRAINED}={root}"}
    steps.append(
        Step("report", "report", "report", root / "report", report_inputs, tuple(step.name for step in steps))
    )
    return steps


def _evaluations(
    root: Path, teacher: tuple[str, tuple[str, ...]], base: tuple[str, tuple[str, ...]]
) -> list[Step]:
    """Return the four evaluations on D_D; teacher and base come as (model, steps before it)."""
    models = {
        "teacher": teacher,
        "base": base,
        "stage1": (str(root / "warmup"), ("warmup",)),
        TRAINED: (str(root / "train"), ("train",)),
    }
    return [
        Step(
            name=f"eval/{name}",
            command="eval",
            section="eval",
            out=root / "eval" / name,
            inputs={"model": model, "problems": str(root / "split")},
            needs=(*before, "split-data"),
        )
        for name, (model, before) in models.items()
    ]


def step_index(steps: list[Step], name: str, *, last: bool, flag: str) -> int:
    """Return the index of a step by name; ``eval`` stands for the first or the last of the evaluations.

    Raises:
        UsageError: the pipeline has no such step.
    """
    found = [i for i, step in enumerate(steps) if step.name == name or step.name.startswith(f"{name}/")]
    if not found:
        names = [step.name for step in steps]
        raise UsageError(
            f"{flag} is '{name}', which is no step here{nearest(name, names)}; the steps are {', '.join(names)}."
        )
    return found[-1] if last else found[0]


@dataclass(frozen=True)
class Decision:
    """Whether a step has to run, and the reason."""

    needed: bool
    reason: str


def decide(out: Path, plan: Plan, *, forced: bool = False) -> Decision:
    """Decide whether a step has to run, from the artifact at ``out`` and the plan.

    Raises:
        PaddError: something stands there that padd did not write, or a newer padd did: it is not replaced.
    """
    manifest = existing_manifest(out, plan.kind)
    if manifest is None:
        return Decision(True, "not there yet")
    if forced:
        return Decision(True, "forced")
    if manifest.key != plan.key:
        return Decision(True, changes(manifest, plan))
    try:
        Artifact(out, manifest).check()
    except PaddError as error:
        return Decision(True, f"damaged: {error}")
    return Decision(False, f"up to date (digest {short_digest(manifest.digest)})")


def changes(manifest: Manifest, plan: Plan) -> str:
    """Return the differences between an existing artifact's recipe and the plan's."""
    parts: list[str] = []
    options = plan.options.method()
    names = [name for name in {**manifest.options, **options} if _differs(name, manifest.options, options)]
    if manifest.seed != plan.options.seed:
        names.append("seed")
    if names:
        more = len(names) - MOST_CHANGES_SHOWN
        shown = ", ".join(names[:MOST_CHANGES_SHOWN]) + (f" and {more} more" if more > 0 else "")
        parts.append(f"options changed: {shown}")
    before = {role: parent.digest for role, parent in manifest.parents.items()}
    now = {role: parent.digest for role, parent in plan.parents.items()}
    parts += [f"parent {role} changed" for role in {**before, **now} if before.get(role) != now.get(role)]
    return "; ".join(parts) or "made by another version of the recipe"


def _differs(name: str, before: dict[str, Any], now: dict[str, Any]) -> bool:
    missing = object()
    return before.get(name, missing) != now.get(name, missing)
