"""Benchmarks: every description loads, rows come from a folder or the hub, golds carry what the columns say."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from padd_artifacts.errors import PaddError, UsageError
from padd_stages.evaluate.benchmark import Protocol, benchmark_names, load_benchmark, read_benchmark
from padd_stages.lib.grading.gold import Gold
from padd_stages.lib.grading.grader import Grader
from padd_stages.lib.options.shared import DEFAULT_SYSTEM

# docs/METHOD.md, section 6
SIZES = {
    "aime24": 30,
    "amc23": 40,
    "gsm8k": 1319,
    "math500": 500,
    "minerva-math": 272,
    "olympiadbench": 675,
}


@pytest.fixture(autouse=True)
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PADD_DATA", raising=False)


def write(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def hub(monkeypatch: pytest.MonkeyPatch, *rows: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The hub holds these rows, whatever is asked for; returns what was asked for."""
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str) -> list[dict[str, Any]]:
        asked.append((name, config, split))
        return list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_every_description_loads_and_follows_the_paper() -> None:
    assert benchmark_names() == sorted(SIZES)
    for name in SIZES:
        protocol = load_benchmark(name).protocol
        assert (protocol.max_new_tokens, protocol.system) == (3000, DEFAULT_SYSTEM)
        sampled = (protocol.greedy, protocol.samples, protocol.temperature, protocol.top_p)
        assert sampled == ((False, 32, 0.6, 0.95) if name == "aime24" else (True, 0, 0.6, 0.95))


def test_rows_come_from_the_folder_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"id": 7, "problem": "1 + 1", "answer": "2", "subject": "Algebra", "level": 3}
    folder = write(tmp_path, "math500.jsonl", row)
    found = read_benchmark("math500", folder)
    monkeypatch.setenv("PADD_DATA", str(folder))
    again = read_benchmark("math500")
    assert found.parent == again.parent
    assert {key: found.rows[0][key] for key in ("id", "problem", "answer", "subject", "level")} == {
        "id": "7", "problem": "1 + 1", "answer": "2", "subject": "Algebra", "level": "3",
    }  # fmt: skip
    assert found.golds == [Gold(("2",))]


def test_the_digest_is_of_the_rows_and_the_protocol(tmp_path: Path) -> None:
    row = {"problem": "1 + 1", "answer": "2"}
    files = ("aime24.jsonl", "amc23.jsonl")
    digests = {name: read_benchmark(name[:-6], write(tmp_path, name, row)).parent.digest for name in files}
    assert digests["aime24.jsonl"] != digests["amc23.jsonl"]
    changed = write(tmp_path, "amc23.jsonl", row | {"answer": "3"})
    assert read_benchmark("amc23", changed).parent.digest != digests["amc23.jsonl"]


def test_gold_of_olympiadbench_has_tolerance_unit_and_several_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {"answer": "x", "is_multiple_answer": False, "error": None, "unit": None}
    rows = [
        plain | {"problem": "a", "final_answer": ["$2$", "two"], "error": "1e-1"},
        plain | {"problem": "b", "final_answer": ["1,3"], "is_multiple_answer": True, "unit": "km"},
    ]
    expected = [Gold(("2", "two"), tolerance=0.1), Gold(("1,3",), several=True, unit="km")]
    assert read_benchmark("olympiadbench", write(tmp_path, "olympiadbench.jsonl", *rows)).golds == expected
    asked = hub(monkeypatch, *({**row, "question": row.pop("problem")} for row in rows))
    assert read_benchmark("olympiadbench").golds == expected
    assert asked == [("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train")]


@pytest.mark.parametrize(
    ("name", "row", "asked", "gold"),
    [
        ("gsm8k", {"question": "q", "answer": "2 #### 3\nso\n#### 1,234"}, ("openai/gsm8k", "main"), "1,234"),
        (
            "minerva-math",
            {"problem": "q", "solution": "\\boxed{1}, no: \\boxed{4.5e33}", "answer": "damaged"},
            ("svc-huggingface/minerva-math", None),
            "4.5e33",
        ),
    ],
)
def test_golds_inside_solutions(
    monkeypatch: pytest.MonkeyPatch, name: str, row: dict[str, str], asked: tuple[str, str | None], gold: str
) -> None:
    calls = hub(monkeypatch, row)
    found = read_benchmark(name)
    assert calls == [(*asked, "test")]
    assert found.golds == [Gold((gold,))]
    assert found.rows[0]["answer"] == gold


def test_without_network_both_ways_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(PaddError) as error:
        read_benchmark("math500")
    for word in (
        "HuggingFaceH4/MATH-500",
        "no route to host",
        "math500.jsonl",
        "--benchmark-dir",
        "PADD_DATA",
    ):
        assert word in str(error.value)


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PaddError, match=r"aime24\.jsonl does not exist.*HuggingFaceH4/aime_2024"):
        read_benchmark("aime24", tmp_path)


def test_a_description_of_ones_own(tmp_path: Path) -> None:
    data = write(tmp_path, "mine.jsonl", {"q": "1 + 1", "a": [2, "two"]}) / "mine.jsonl"
    own = tmp_path / "mine.yaml"
    own.write_text(f"title: Mine\nhub: {{data: {data}, problem: q, answer: a}}\nprotocol: {{samples: 2}}\n")
    found = read_benchmark(str(own))
    assert (found.name, found.protocol) == ("mine", Protocol(samples=2))
    assert found.golds == [Gold(("2", "two"))]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("title: x\n", "hub"),
        ("title: x\nhub: {data: y, colour: z}\n", "colour"),
        ("title: x\nhub: {data: y}\nprotocol: {top_p: 2}\n", "top_p"),
        ("title: [\n", "mend"),
    ],
)
def test_descriptions_that_are_wrong(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=word):
        load_benchmark(str(path))


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match=r"'math5000'.*math500"):
        load_benchmark("math5000")


@pytest.mark.data
@pytest.mark.parametrize("name", SIZES)
def test_real_benchmarks_are_whole(data_folder: Path, name: str) -> None:
    found = read_benchmark(name, data_folder)
    assert len(found.rows) == len(found.golds) == SIZES[name]
    if name == "olympiadbench":
        assert sum(gold.several for gold in found.golds) == 94
        assert [gold.tolerance for gold in found.golds if gold.tolerance] == [0.1]


@pytest.mark.data
@pytest.mark.parametrize("name", SIZES)
def test_every_real_gold_is_right_by_its_own_standard(data_folder: Path, name: str) -> None:
    golds = read_benchmark(name, data_folder).golds
    with Grader(workers=2, time_limit=20.0) as grader:
        verdicts = grader.grade([(f"\\boxed{{{gold.answers[0]}}}", gold) for gold in golds])
    assert [gold for gold, verdict in zip(golds, verdicts, strict=True) if not verdict.correct] == []
