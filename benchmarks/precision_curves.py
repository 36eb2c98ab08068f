"""Training curves of one student in fp32, in bf16 kept in fp32, and that with 8-bit moments, over seeds.

    padd run toy --to warmup && python benchmarks/precision_curves.py runs/toy FOLDER [--steps 15] [--seeds 3]

Writes the runs, curves.png and a table to FOLDER; runs that are there already are not made again. Parameters smaller
than 4096 numbers keep fp32 moments in the third kind too: of the toy's, norms and routers.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from padd_stages.lib.plots.style import COLOURS, LINE_STYLES, new_figure, save_figure

KINDS = {
    "fp32": ["--dtype", "float32"],
    "bf16": ["--dtype", "bfloat16"],
    "bf16, 8-bit moments": ["--dtype", "bfloat16", "--optimizer", "adamw-8bit"],
}
# names of metrics.jsonl; of L_KD and the reward a mean over the last rollouts is compared
CURVES = {"kd/loss": "L_KD", "reward": "mean reward", "update/relative": "rms change / weight"}
LAST = 5


def train(toy: Path, out: Path, kind: str, seed: int, steps: int) -> NDArray[np.float64]:
    """Train if it has not been done; return the curves, (metrics, steps)."""
    if not out.is_dir():
        command = [sys.executable, "-m", "padd_cli", "train", "--config", "toy", *KINDS[kind]]
        inputs = {"student": "warmup", "teacher": "toy/teacher", "split": "split"}
        for flag, name in inputs.items():
            command += [f"--{flag}", str(toy / name)]
        command += ["--steps", str(steps), "--seed", str(seed), "--out", str(out), "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return np.array([[row[name] for row in rows[:steps]] for name in CURVES])


def draw(curves: dict[str, NDArray[np.float64]], path: Path) -> None:
    """Draw the mean over seeds of each kind, and the range of seeds; curves are (seeds, metrics, steps)."""
    figure = new_figure(7.0, 2.6)
    for place, label in enumerate(CURVES.values()):
        axes = figure.add_subplot(1, len(CURVES), place + 1, xlabel="rollout", ylabel=label)
        for number, (kind, values) in enumerate(curves.items()):
            of_one = values[:, place]
            rollouts = np.arange(1, of_one.shape[1] + 1)
            axes.plot(
                rollouts, of_one.mean(0), color=COLOURS[number], linestyle=LINE_STYLES[number], label=kind
            )
            axes.fill_between(
                rollouts, of_one.min(0), of_one.max(0), color=COLOURS[number], alpha=0.15, linewidth=0
            )
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    save_figure(figure, path)


def table(curves: dict[str, NDArray[np.float64]]) -> str:
    """Return means over the last rollouts with the standard deviation over seeds, and differences of the same seed."""
    lines = ["| last rollouts | " + " | ".join(CURVES.values()) + " |", "|---|" + "---|" * len(CURVES)]
    ends = {kind: values[:, :, -LAST:].mean(-1) for kind, values in curves.items()}  # (seeds, metrics)
    first = next(iter(ends.values()))
    for kind, values in ends.items():
        cells = [f"{m:.4g} ({s:.2g})" for m, s in zip(values.mean(0), values.std(0, ddof=1), strict=True)]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    for kind, values in list(ends.items())[1:]:
        off = values - first
        cells = [f"{m:+.2g} ({s:.2g})" for m, s in zip(off.mean(0), off.std(0, ddof=1), strict=True)]
        lines.append(f"| {kind} minus fp32 | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("toy", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    curves = {
        kind: np.stack(
            [
                train(asked.toy, asked.folder / f"{place}-{seed}", kind, seed, asked.steps)
                for seed in range(asked.seeds)
            ]
        )
        for place, kind in enumerate(KINDS)
    }
    draw(curves, asked.folder / "curves.png")
    print(table(curves))


if __name__ == "__main__":
    main()
