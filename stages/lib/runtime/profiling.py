"""Where the time of a step goes, by torch's profiler."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.profiler import ProfilerActivity, profile, schedule

from padd_artifacts.writer import ArtifactWriter
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.reporter import Reporter

FOLDER = "profile"
ROWS = 20  # of the table: operations that take the most time


@contextmanager
def profiling(
    steps: int, writer: ArtifactWriter, processes: Processes, reporter: Reporter
) -> Iterator[Callable[[], None]]:
    """Profile ``steps`` steps of a run after its first one, which is slower than the others; 0 profiles none.

    Writes profile/rank0.json.gz, which chrome://tracing and Perfetto show, and the table of rank0.txt, for each rank;
    a step of thousands of sampled tokens makes files of gigabytes.

    Yields:
        What is to be called after each step.
    """
    if processes.is_main:
        shutil.rmtree(writer.folder / FOLDER, ignore_errors=True)  # of the run that this one resumes
    if not steps:
        yield lambda: None
        return
    on_gpu = processes.device.type == "cuda"

    def write(profiler: profile) -> None:
        folder = writer.folder / FOLDER
        folder.mkdir(exist_ok=True)
        name = f"rank{processes.rank}"
        profiler.export_chrome_trace(str(folder / f"{name}.json.gz"))
        order = f"self_{'cuda' if on_gpu else 'cpu'}_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=60)
        (folder / f"{name}.txt").write_text(table, encoding="utf-8")
        reporter.note(f"{steps} steps are profiled, see {FOLDER}/ in the result")
        processes.barrier()  # before the first process seals the result

    writer.volatile |= {
        f"{FOLDER}/rank{rank}.{kind}" for rank in range(processes.world) for kind in ("json.gz", "txt")
    }
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    plan = schedule(wait=0, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:
        yield profiler.step
