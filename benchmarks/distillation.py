"""Peak extra memory of the distillation loss, in chunks and by the plain formula, at the true size of the models.

    python benchmarks/distillation.py [--quick] [--json] [--tokens N] [--plain-tokens N]

4,096 tokens, 152,064 words, hidden sizes 3,584 (teacher) and 2,048 (student), bf16 heads, temperatures per token.
Extra is what a forward and backward pass needs beyond the inputs and their gradients: the process's peak resident
memory, less what was resident before and less the gradients that it leaves. Each measurement has a process of its own.
The plain formula is measured at 1,024 tokens (at 4,096 it needs 14 GB beyond the inputs), and its
growth from 512 tokens on; both losses are printed. ``--quick``: 256 tokens.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WORDS, TEACHER_SIZE, STUDENT_SIZE = 152_064, 3_584, 2_048
DISTINCT = (
    4_096  # rows of a head that are drawn; they are repeated, since drawing takes longer than the measurement
)
RESET_PEAK = "5"  # proc(5), clear_refs: VmHWM starts again from what is resident


def resident(name: str) -> float:
    """VmHWM (the peak) or VmRSS of this process, MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {name} in /proc/self/status; this program needs Linux.")


def one(kind: str, tokens: int, direction: str) -> dict[str, float]:
    """The body of a process: one forward and backward."""
    import torch

    from padd_stages.lib.objectives.chunked import chunked_kl
    from padd_stages.lib.objectives.distillation import kl_divergence

    generator = torch.Generator().manual_seed(0)

    def random(rows: int, columns: int) -> Any:
        some = torch.randn(min(rows, DISTINCT), columns, generator=generator).mul_(columns**-0.25).bfloat16()
        return some.repeat(-(-rows // len(some)), 1)[:rows].clone()

    student_head, teacher_head = random(WORDS, STUDENT_SIZE), random(WORDS, TEACHER_SIZE)
    hidden, teacher_hidden = random(tokens, STUDENT_SIZE), random(tokens, TEACHER_SIZE)
    tau = 0.25 + 1.5 * torch.rand(tokens, generator=generator)
    weight = torch.full((tokens,), 1 / tokens)
    for tensor in (hidden, student_head):
        tensor.requires_grad_()
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    before, start = resident("VmRSS"), time.perf_counter()
    if kind == "chunked":
        loss, _ = chunked_kl(
            hidden,
            student_head,
            teacher_hidden,
            teacher_head,
            weight=weight,
            tau_teacher=tau,
            tau_student=tau,
            direction=direction,  # type: ignore[arg-type]
        )
    else:
        teacher_logits = teacher_hidden @ teacher_head.T
        kl = kl_divergence(teacher_logits, hidden @ student_head.T, tau, tau, direction)  # type: ignore[arg-type]
        loss = (weight * kl).sum()
    loss.backward()
    gradients = sum(tensor.nbytes for tensor in (hidden, student_head)) / 2**20
    return {
        "extra_mb": round(resident("VmHWM") - before - gradients),
        "seconds": round(time.perf_counter() - start, 1),
        "loss": float(loss.detach()),
    }


def in_process(kind: str, tokens: int, direction: str) -> dict[str, float]:
    """`one`, in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--one", kind, str(tokens), direction]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{kind} at {tokens} tokens failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().rpartition("\n")[2])


def measure(tokens: int, plain_tokens: int) -> dict[str, Any]:
    """Chunked in both directions at `tokens`; plain and chunked at `plain_tokens` and half of it."""
    rows = {}
    for kind, count, direction in (
        ("chunked", tokens, "forward"),
        ("chunked", tokens, "reverse"),
        ("chunked", plain_tokens, "reverse"),
        ("plain", plain_tokens // 2, "reverse"),
        ("plain", plain_tokens, "reverse"),
    ):
        name = f"{kind} {direction} {count:,}"
        rows[name] = in_process(kind, count, direction)
        print(name, rows[name], file=sys.stderr)
    half, whole = (
        rows[f"plain reverse {count:,}"]["extra_mb"] for count in (plain_tokens // 2, plain_tokens)
    )
    a_token = (whole - half) / (plain_tokens - plain_tokens // 2)
    return {
        "chunked_mb": max(rows[f"chunked {way} {tokens:,}"]["extra_mb"] for way in ("forward", "reverse")),
        "plain_mb": whole,
        "plain_mb_a_token": round(a_token, 3),
        "plain_mb_extrapolated": round(whole + a_token * (tokens - plain_tokens)),
        "tokens": tokens,
        "plain_tokens": plain_tokens,
        "runs": rows,
    }


def main() -> None:
    """Measure; with ``--json`` one object on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="256 tokens")
    parser.add_argument("--json", action="store_true", help="one object on the last line of stdout")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--plain-tokens", type=int, default=1024)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        kind, tokens, direction = given.one
        print(json.dumps(one(kind, int(tokens), direction)))
        return
    found = measure(256, 128) if given.quick else measure(given.tokens, given.plain_tokens)
    print(json.dumps(found) if given.json else json.dumps({k: v for k, v in found.items() if k != "runs"}))


if __name__ == "__main__":
    main()
