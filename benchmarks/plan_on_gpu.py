"""The plan of a training run against what a GPU measured: memory and seconds of each part, side by side.

    python benchmarks/plan_on_gpu.py OUT --split SPLIT [--layers 4] [--small] [options of padd train]

The pair is random, with the widths of Qwen3-30B-A3B and Qwen2.5-Math-7B but few layers, and vocabularies of their
sizes: the toy's words, and others that never occur. SPLIT is a split of the toy's problems. ``--small`` makes narrow
models, to try the script on a CPU, whose memory is not measured. Prints one JSON object.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from padd_stages.toy.tokenizer import build_tokenizer

WORDS = {"teacher": 152064, "student": 151936}
PARTS = {"rollout": "rollout", "old policy and teacher": "old_policy_and_teacher", "update": "updates"}


def widened(words: int, seed: int) -> PreTrainedTokenizerFast:
    """Return the toy's tokenizer with further words, up to the size of a real vocabulary."""
    toy = build_tokenizer(seed)
    state = json.loads(toy.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary |= {f"<filler {i}>": i for i in range(len(vocabulary), words)}
    special = {name: str(getattr(toy, name)) for name in ("pad_token", "bos_token", "eos_token", "unk_token")}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), **special, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = toy.chat_template
    return tokenizer


def make_pair(folder: Path, layers: int, small: bool) -> None:
    """Write teacher and student in bf16."""
    words = {role: 400 if small else count for role, count in WORDS.items()}
    tokenizers = {role: widened(words[role], seed) for seed, role in enumerate(words, start=1)}
    common = {"num_hidden_layers": layers, "max_position_embeddings": 4096, "tie_word_embeddings": False}
    ids = {
        role: {"vocab_size": words[role], "eos_token_id": t.eos_token_id, "pad_token_id": t.pad_token_id}
        for role, t in tokenizers.items()
    }
    wide = {"num_key_value_heads": 4, "head_dim": 128}
    teacher = {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28}
    student = {
        "hidden_size": 2048,
        "moe_intermediate_size": 768,
        "num_attention_heads": 32,
        "num_experts": 128,
    }
    student |= {"num_experts_per_tok": 8, "intermediate_size": 6144}
    if small:
        wide = {"num_key_value_heads": 2, "head_dim": 16}
        teacher = {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 6}
        student |= {
            "hidden_size": 64,
            "moe_intermediate_size": 32,
            "num_attention_heads": 4,
            "num_experts": 16,
        }
    configs = {
        "teacher": (Qwen2ForCausalLM, Qwen2Config(**common, **ids["teacher"], **wide, **teacher)),
        "student": (
            Qwen3MoeForCausalLM,
            Qwen3MoeConfig(**common, **ids["student"], **wide, **student, norm_topk_prob=True),
        ),
    }
    torch.manual_seed(0)
    for role, (kind, config) in configs.items():
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = kind(config).to(torch.bfloat16)
        model.save_pretrained(folder / role)
        tokenizers[role].save_pretrained(folder / role)


def padd(*arguments: str) -> str:
    """Run a command of padd and return what it prints; its progress goes to the terminal."""
    done = subprocess.run(
        [sys.executable, "-m", "padd_cli", *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def compare(folder: Path, split: str, options: list[str]) -> dict[str, Any]:
    """Plan a run, run it, and set the parts side by side; the first step, which compiles and allocates, is left out."""
    run = [
        "train",
        "--student",
        str(folder / "student"),
        "--teacher",
        str(folder / "teacher"),
        "--split",
        split,
    ]
    planned = json.loads(padd(*run, *options, "--dry-run", "--json"))["memory"]
    padd(*run, *options, "--out", str(folder / "run"), "--force", "-q")
    timings, metrics = jsonl(folder / "run/timings.jsonl")[1:], jsonl(folder / "run/metrics.jsonl")
    held = sum(planned["held"].values())
    parts = {}
    for part, lap in PARTS.items():
        told = held + sum(planned["phases"][part].values())
        seen = max((row.get(f"gib/{lap}", float("nan")) for row in timings), default=float("nan"))
        seconds = sum(row[f"seconds/{lap}"] for row in timings) / max(len(timings), 1)
        parts[part] = {"planned_gib": told, "measured_gib": seen, "ratio": told / seen, "seconds": seconds}
    kept = ("update/moved", "update/relative", "kd/kl", "policy_kl", "reward")
    logged = [{k: v for k, v in row.items() if k in kept or k.startswith("sampling/")} for row in metrics]
    rates = [row["tokens_per_second"] for row in timings]
    return {
        "options": options,
        "planned": planned,
        "parts": parts,
        "metrics": logged,
        "tokens_per_second": rates,
    }


def main() -> None:
    """Make the pair where it is missing, and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", required=True)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--small", action="store_true")
    args, options = parser.parse_known_args()
    if not (args.out / "student" / "tokenizer.json").is_file():
        make_pair(args.out, args.layers, args.small)
    print(json.dumps(compare(args.out, args.split, options), indent=1))


if __name__ == "__main__":
    main()
