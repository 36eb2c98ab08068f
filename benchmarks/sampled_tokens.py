"""The tokens that padd samples from a tiny model of each family: run it under two versions of a library, compare.

    python benchmarks/sampled_tokens.py > here.json
    other/bin/python benchmarks/sampled_tokens.py --against here.json

Families, sizes and weights are those of tests/stages/conftest.py; greedy, and with keyed draws at temperature 1.
"""

import argparse
import importlib.util
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from padd_stages.lib.models.loading import quiet_transformers
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.sampling.responses import Request, Sampling, sample

CONFTEST = Path(__file__).resolve().parent.parent / "tests" / "stages" / "conftest.py"
PROMPTS = [(5, 9, 11, 7), (4, 8), (5, 9, 11, 7), (13, 2, 40, 21, 33, 6, 17), (22,)]
NEW_TOKENS = 20


def tokens_of(model: Any, temperature: float) -> list[list[int]]:
    """One response a prompt, cut at token 3."""
    requests = [Request(prompt, (number,)) for number, prompt in enumerate(PROMPTS)]
    sampling = Sampling(NEW_TOKENS, temperature)
    responses = sample(model, requests, sampling, eos_ids=[3], pad_id=0, batch_tokens=10_000)
    return [list(response.token_ids) for response in responses]


def main() -> int:
    """Print the tokens as JSON, or the families whose tokens differ from another run's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="what another run printed")
    arguments = parser.parse_args()
    quiet_transformers()
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("families", CONFTEST)
    assert spec is not None
    assert spec.loader is not None
    families = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(families)
    found = {}
    for name in [*families.FAMILIES, *families.DENSE_FAMILIES]:
        model = families.build_tiny(name)
        if name in families.FAMILIES:
            adapter = MoEAdapter.attach(model)
            adapter.set_bias(
                0.5 * torch.randn(adapter.bias.shape, generator=torch.Generator().manual_seed(3))
            )
        found[name] = {"greedy": tokens_of(model, 0.0), "sampled": tokens_of(model, 1.0)}
    versions = {name: metadata.version(name) for name in ("transformers", "torch")}
    if arguments.against is None:
        print(json.dumps({"versions": versions, "tokens": found}))
        return 0
    other = json.loads(arguments.against.read_text(encoding="utf-8"))
    differing = [name for name in found if found[name] != other["tokens"].get(name)]
    count = sum(len(ids) for modes in found.values() for rows in modes.values() for ids in rows)
    print(
        f"{versions} against {other['versions']}: {len(found)} families, {count} tokens, differing: {differing}"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
