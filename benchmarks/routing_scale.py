"""Time and peak memory of `padd analyze-experts` on an MoE of Qwen3-30B-A3B's routing: 48 layers, 128 experts, top-8.

    python benchmarks/routing_scale.py [--quick] [--json] [--work FOLDER]

The model is random and narrow (hidden size 64), which changes nothing about routing's sums: they are as large as with
the real width. Each run reads problems with solutions of together so many counted tokens; memory must not follow them.
``--quick`` takes 6 layers of 16 experts and a tenth of the tokens.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from padd_artifacts.artifact import open_artifact
from padd_stages.lib.data.subdomains import SUBDOMAINS
from padd_stages.toy.tokenizer import build_tokenizer

PADD = Path(sys.executable).with_name("padd")
PROBLEMS = 800


@dataclass(frozen=True)
class Scale:
    """Layers, experts and experts active for a token; the counted tokens of each run."""

    layers: int
    experts: int
    top_k: int
    tokens: tuple[int, ...]


def make_student(folder: Path, scale: Scale) -> None:
    """A random Qwen3-MoE of small width."""
    tokenizer = build_tokenizer(0)
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_hidden_layers=scale.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=scale.experts,
        num_experts_per_tok=scale.top_k,
        norm_topk_prob=True,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_problems(path: Path, tokens: int) -> None:
    """Problems whose solutions are random digits, one token each, so that no path is common by accident."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as handle:
        for number in range(PROBLEMS):
            length = tokens * (number + 1) // PROBLEMS - tokens * number // PROBLEMS
            row = {
                "problem": f"Find the last digit of {number}.",
                "solution": "".join(draw.choices("0123456789", k=length)),
                "subdomain": SUBDOMAINS[number % (len(SUBDOMAINS) - 1)],
            }
            handle.write(json.dumps(row) + "\n")


def analyse(student: Path, problems: Path, out: Path) -> dict[str, Any]:
    """One run of the command, with its wall time and peak resident memory."""
    started = time.monotonic()
    process = subprocess.Popen(
        [PADD, "analyze-experts", "--student", student, "--problems", problems, "--out", out, "--quiet"],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"padd analyze-experts ended with {process.returncode}")
    model = open_artifact(out).report["models"]["student"]
    return {
        "tokens": model["tokens"],
        "seconds": round(time.monotonic() - started, 1),
        "peak_gigabytes": round(usage.ru_maxrss * 1024 / 1e9, 3),
        "distinct_paths": model["paths"]["distinct"],
    }


def main() -> None:
    """Print what was measured; with ``--json`` as one object on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small model and a tenth of the tokens")
    parser.add_argument("--json", action="store_true", help="one object on the last line of stdout")
    parser.add_argument("--work", type=Path, help="where files go (default: the system's temporary folder)")
    arguments = parser.parse_args()
    scale = Scale(48, 128, 8, (50_000, 200_000))
    if arguments.quick:
        scale = Scale(6, 16, 4, (5_000, 20_000))
    console = Console(file=sys.stderr, highlight=False)
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        folder = Path(name)
        make_student(folder / "student", scale)
        runs = []
        for tokens in scale.tokens:
            write_problems(folder / "problems.jsonl", tokens)
            runs.append(analyse(folder / "student", folder / "problems.jsonl", folder / f"experts-{tokens}"))
            console.print(runs[-1])
    if arguments.json:
        print(
            json.dumps({"layers": scale.layers, "experts": scale.experts, "top_k": scale.top_k, "runs": runs})
        )


if __name__ == "__main__":
    main()
