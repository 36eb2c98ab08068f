"""docs/TRAINING.md: every option, every field of TRL and every test that it names is there."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from padd_stages.train.options import TrainOptions

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "docs" / "TRAINING.md").read_text(encoding="utf-8").splitlines()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES if line.startswith("| ")][1:]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_option_and_test_exist(row: list[str]) -> None:
    _, option, _, test, _ = row
    assert option == "always" or option.strip("`-").replace("-", "_") in TrainOptions.model_fields
    path, name = test.strip("`").split("::")
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_fields_of_trl_exist() -> None:
    found = find_spec("trl")
    if found is None or found.origin is None:
        pytest.skip("TRL is not installed")
    trainer = Path(found.origin).parent / "trainer"
    texts = [(trainer / name).read_text(encoding="utf-8") for name in ("grpo_config.py", "base_config.py")]
    fields = {name for text in texts for name in re.findall(r"^    (\w+): ", text, re.MULTILINE)}
    fields |= {"optim", "gradient_checkpointing"}  # of transformers' TrainingArguments
    named = {row[2].strip("`") for row in ROWS} - {"none"}
    assert len(named) > 15
    assert named - fields == set()
