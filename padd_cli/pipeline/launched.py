"""Steps of ``padd run`` on several processes: the command typed by hand, behind a launcher's."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from padd_artifacts.errors import PaddError, UsageError
from padd_cli.flags.ablations import ablated_stages
from padd_cli.pipeline.steps import Step
from padd_cli.stage_command import StageCommand


def launcher(line: str) -> list[str]:
    """Split a launcher's command line, for instance ``torchrun --nproc-per-node 8``, and find its program.

    Raises:
        UsageError: it is empty, or there is no such program.
    """
    words = shlex.split(line)
    if not words:
        raise UsageError("--launch is empty, so there is nothing to start the stages with; leave it out.")
    beside = Path(sys.executable).with_name(words[0])  # of this environment, whether or not it is activated
    program = str(beside) if beside.is_file() else shutil.which(words[0])
    if program is None:
        raise UsageError(
            f"--launch names {words[0]}, which is not installed here, so no stage can be started; "
            "take torchrun or accelerate launch."
        )
    return [program, *words[1:]]


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
    if own := ablated_stages(command.name):  # an empty list too: the preset may leave out others
        words += ["--without", ",".join(stage for stage in without if stage in own)]
    words += ["--resume"] * resume + ["--force"] * step.out.exists() + ["--quiet"] * quiet + ["-v"] * verbose
    code = subprocess.run(words, stdout=subprocess.DEVNULL).returncode
    if code:
        raise PaddError(
            f"{step.name} ended with exit code {code} under `{shlex.join(start)}`, so the run stops; its own message "
            "is above, and the same `padd run` goes on from its last checkpoint."
        )
