"""`padd train`: Stages II to IV fused into one run, and every baseline of it (docs/METHOD.md, sections 4 and 5).

Each step: roll out, reward, run the old policy once, update several times, move the router bias. Stage II acts in
the forward pass, III in the loss, IV after the last update.
"""

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.lib.grading.grader import Grader
from padd_stages.lib.models.loading import model_parent
from padd_stages.lib.models.saving import save_model
from padd_stages.lib.models.trainable import merge_factors
from padd_stages.lib.models.trained import check_teacher_device, is_mixed
from padd_stages.lib.options.shared import SHARD
from padd_stages.lib.runtime.checkpoints import FOLDER as CHECKPOINTS
from padd_stages.lib.runtime.launcher import sharding_requested
from padd_stages.lib.runtime.metrics_log import TIMINGS
from padd_stages.lib.runtime.optimization import require_optimizer
from padd_stages.lib.runtime.processes import Processes, check_divides, collective_forwards, start_processes
from padd_stages.lib.runtime.reporter import SILENT, Reporter
from padd_stages.lib.runtime.seeds import seed_everything
from padd_stages.lib.runtime.sharding import gather_state
from padd_stages.lib.runtime.trackers import Trackers, require_tracker
from padd_stages.train.checks import check_method, likely_mistakes
from padd_stages.train.engine import start_engine
from padd_stages.train.log import (
    final_report,
    stage3_warning,
    unused_balance_loss,
)
from padd_stages.train.loop import TrainLoop
from padd_stages.train.models import load_models
from padd_stages.train.old_policy import halves_of
from padd_stages.train.options import TrainInputs, TrainOptions
from padd_stages.train.reward_functions import Rewards, reward_parents
from padd_stages.train.rollout import make_prompts

TENSORBOARD = "tensorboard"  # folder beside the result's


def plan(inputs: TrainInputs, options: TrainOptions) -> Plan:
    """Open the inputs and check that the options can act on them."""
    check_method(inputs, options)
    check_divides("--prompts-per-step", options.prompts_per_step, options.mini_batches * halves_of(options))
    split = open_artifact(inputs.split, "split")
    parents = {"student": model_parent(inputs.student), "split": split.as_parent()}
    if options.kd_weight > 0 and inputs.teacher is not None:
        parents["teacher"] = model_parent(inputs.teacher)
    parents |= reward_parents(options.reward)
    for name in options.tracker:
        require_tracker(name)
    require_optimizer(options.optimizer)
    sizes = {
        "prompts": sum(1 for _ in split.file("c.jsonl").open(encoding="utf-8")),
        "rollouts": options.steps,
        "responses": options.steps * options.prompts_per_step * options.num_generations,
        "updates": options.steps * options.num_iterations * options.mini_batches,
    }
    return Plan("student", options, parents, sizes)


def run(inputs: TrainInputs, options: TrainOptions, output: Output, reporter: Reporter = SILENT) -> Artifact:
    """Train the student and write a checkpoint that transformers loads, with its router state and logs."""
    output.check()
    plan_ = plan(inputs, options)
    check_teacher_device(options.teacher_device)
    with start_processes(
        options.device,
        shards=sharding_requested(),
        mixed=is_mixed(inputs.student, options.dtype),
        lockstep=options.teacher_device == SHARD,
    ) as processes:
        return _run(inputs, options, plan_, output, processes, reporter)


def _run(
    inputs: TrainInputs,
    options: TrainOptions,
    plan_: Plan,
    output: Output,
    processes: Processes,
    reporter: Reporter,
) -> Artifact:
    reporter = reporter if processes.is_main else SILENT
    seed_everything(options.seed)
    with (
        ArtifactWriter(output, plan_, writes=processes.is_main) as writer,
        Grader(workers=options.workers, time_limit=options.grading_limit) as grader,
        Rewards(options.reward, options.reward_weights, grader) as rewards,
        Trackers(
            options.tracker if processes.is_main else (),
            run_name=output.out.name,
            config=inputs.model_dump(mode="json") | options.model_dump(mode="json"),
            folder=output.out.parent / TENSORBOARD,
        ) as trackers,
    ):
        for text in likely_mistakes(options):
            reporter.warn(text)
        writer.scratch.add(CHECKPOINTS)
        reporter.phase("loading the models")
        models = load_models(inputs, options, processes)
        if (text := unused_balance_loss(models.student, options)) is not None:
            reporter.note(text)
        if models.teacher is not None and (text := models.teacher.ends_note()) is not None:
            reporter.note(text)
        teacher = models.teacher.language_model if models.teacher else None
        rows = open_artifact(inputs.split, "split", check=False).jsonl("c.jsonl")
        prompts, left_out = make_prompts(rows, models.student, teacher, options)
        if not prompts:
            raise PaddError(f"no problem of D_C in {inputs.split} fits in --max-prompt-length; raise it.")
        if left_out:
            reporter.note(
                f"{left_out} of {len(rows)} prompts are longer than {options.max_prompt_length} tokens"
            )
        engine = start_engine(models.policy, models.student, prompts, options, processes, output, writer)
        loop = TrainLoop(models, processes, prompts, rewards, options, reporter, engine)
        with collective_forwards():
            loop.run(writer, trackers, resume=output.resume)
        if engine is not None:
            engine.close()
        _write_result(loop, writer)
    processes.barrier()  # for the process that writes
    return writer.artifact


def _write_result(loop: TrainLoop, writer: ArtifactWriter) -> None:
    """Write the student and the report beside the logs, in one process; a sharded student is gathered there."""
    options, student, is_main = loop.options, loop.models.student, loop.processes.is_main
    best = loop.take_best(writer.folder) if options.export == "best" else {}
    merge_factors(student.model)
    state = gather_state(student.model, keep=is_main, dtypes=student.dtypes) if loop.processes.fsdp else None
    if not is_main:
        return
    report = final_report(writer.folder, options) | best
    if (text := stage3_warning(report, options)) is not None:
        loop.reporter.warn(text)
    save_model(writer.folder, student, state)
    writer.volatile.add(TIMINGS)
    writer.write_json("report.json", report)
    writer.summary.update(report)
