"""Steps of ``padd run`` on several processes: the command typed by hand, behind a launcher's."""

import gc
import os
import shlex
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

from padd_artifacts.errors import PaddError, UsageError
from padd_cli.flags.ablations import ABLATIONS, ablated_stages
from padd_cli.pipeline.steps import Step
from padd_cli.stage_command import StageCommand

FSDP2 = "fsdp2"
CONFIGURATIONS = (FSDP2, "multi-gpu")  # in presets/accelerate


def launcher(line: str) -> list[str]:
    """Split a launcher's command line, for instance ``torchrun --nproc-per-node 8``, and find its program.

    ``fsdp2`` and ``multi-gpu`` stand for accelerate with padd's configuration of that name, on all GPUs of the machine.

    Raises:
        UsageError: it is empty, or there is no such program.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(
            f"--launch {line} cannot be read as a command ({error}); check its quotes."
        ) from error
    if not words:
        raise UsageError("--launch is empty, so there is nothing to start the stages with; leave it out.")
    if words[0] in CONFIGURATIONS:
        words = [*_accelerate(words[0]), *words[1:]]
    beside = Path(sys.executable).parent / words[0]  # of this environment, whether or not it is activated
    program = str(beside) if beside.is_file() else shutil.which(words[0])
    if program is None:
        raise UsageError(
            f"--launch names {words[0]}, which is not installed here, so no stage can be started; "
            f"take torchrun, accelerate launch, or {' or '.join(CONFIGURATIONS)}."
        )
    return [program, *words[1:]]


def _accelerate(name: str) -> list[str]:
    import torch

    config = str(resources.files("padd_cli") / "presets" / "accelerate" / f"{name}.yaml")
    return [
        "accelerate",
        "launch",
        "--config_file",
        config,
        "--num_processes",
        str(torch.cuda.device_count() or 1),
    ]


def is_sharded(line: str) -> bool:
    """Return whether a launcher's command line shards models: padd's fsdp2, or another configuration of FSDP."""
    words = shlex.split(line)
    files = [Path(word) for word in words if word.endswith((".yaml", ".yml")) and Path(word).is_file()]
    named = any("distributed_type: FSDP" in path.read_text(encoding="utf-8") for path in files)
    return FSDP2 in words[:1] or named or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("true", "1")


def run_launched(
    start: list[str],
    command: StageCommand,
    step: Step,
    *,
    preset: str,
    without: tuple[str, ...],
    resume: bool,
    quiet: bool,
    verbose: int,
) -> None:
    """Run a step behind a launcher; its progress and errors go where this command's go.

    Raises:
        PaddError: it failed.
    """
    words = [*start, "-m", "padd_cli", command.name, "--config", preset, "--out", str(step.out)]
    if len(command.sections) > 1:
        words += ["--section", step.section]
    for name, value in step.inputs.items():
        words += [f"--{name.replace('_', '-')}", value]
    if ablated_stages(command.name):  # an empty list too: the preset may leave out others
        own = [stage for stage in without if ABLATIONS[stage][0] == step.section]
        words += ["--without", ",".join(own)]
    # what is in the way was looked at before: a result that is to be replaced, or an interrupted run that is given up
    replaces = not resume or step.out.exists()
    words += ["--resume"] * resume + ["--force"] * replaces + ["--quiet"] * quiet + ["-v"] * verbose
    _free_gpu()
    code = subprocess.run(words, stdout=subprocess.DEVNULL).returncode
    if code:
        raise PaddError(
            f"{step.name} ended with exit code {code} under `{shlex.join(start)}`, so the run stops; its own message "
            "is above, and the same `padd run` goes on from its last checkpoint."
        )


def _free_gpu() -> None:
    """Give back what earlier stages of this process hold of a GPU, which a launched one will want."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
