"""The stage ``split-data``: what it writes, and what it refuses."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts.artifact import open_artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.writer import Output
from padd_stages.lib.data.subdomains import SUBDOMAINS
from padd_stages.split_data import stage as split_data
from padd_stages.split_data.options import SplitInputs, SplitOptions
from padd_stages.split_data.subsets import SUBSETS, hash_position


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _problems(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"p{i}", "problem": f"What is ${i} + {i}$?", "answer": str(2 * i), "level": i % 5}
        for i in range(count)
    ]


class _Heard:
    def __init__(self) -> None:
        self.phases: list[tuple[str, int | None]] = []
        self.done = 0
        self.warnings: list[str] = []

    def phase(self, name: str, total: int | None = None) -> None:
        self.phases.append((name, total))

    def advance(self, n: int = 1, line: str = "") -> None:
        self.done += n

    def note(self, text: str) -> None:
        raise AssertionError(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def _messy(tmp_path: Path) -> SplitInputs:
    rows = _problems(200)
    rows += [
        {"id": "dup", "problem": "what is  $7 + 7$?", "answer": "14"},
        {"id": "dup2", "problem": "What is $8 + 8$?", "answer": "17"},
        {"id": "none", "problem": "", "answer": "1"},
        {"id": "open", "problem": "What is love?", "answer": None},
        {
            "id": "labelled",
            "problem": "Two dice are rolled.",
            "answer": "1",
            "subject": "Geometry",
            "solution": "So 1.",
        },
    ]
    benchmark = [{"id": "bench-1", "problem": "WHAT is $3 + 3$?"}, {"id": "bench-2", "problem": "Unseen?"}]
    benchmark += [{"id": "bench-3", "problem": "So what is $9 + 9$?"}]
    benchmark += [{"id": "bench-4", "problem": "Two dice are rolled 7 times and 7 dice are rolled 2 times."}]
    rows += [
        {"id": "near", "problem": "Two dice are rolled 7 times and 9 dice are rolled 2 times.", "answer": 1}
    ]
    return SplitInputs(
        problems=str(_jsonl(tmp_path / "problems.jsonl", rows)),
        benchmarks=[_jsonl(tmp_path / "bench.jsonl", benchmark)],
    )


def test_what_is_written(tmp_path: Path) -> None:
    inputs, heard = _messy(tmp_path), _Heard()
    artifact = split_data.run(inputs, SplitOptions(seed=3), Output(tmp_path / "split"), heard)
    artifact = open_artifact(artifact.path, "split")
    rows = {name: artifact.jsonl(f"{name}.jsonl") for name in SUBSETS}
    everything = [row for name in SUBSETS for row in rows[name]]
    assert sorted(row["id"] for row in everything) == sorted(
        [f"p{i}" for i in range(200) if i not in (3, 9)] + ["labelled", "near"]
    )
    edges = (0.0, 0.1, 0.3, 0.95, 1.0)
    for name, low, high in zip(SUBSETS, edges, edges[1:], strict=False):
        assert all(low <= hash_position(row["problem"], 3) < high for row in rows[name])
    by_id = {row["id"]: row for row in everything}
    assert list(by_id["p5"]) == ["id", "problem", "answer", "solution", "subdomain", "extra"]
    assert by_id["p5"]["extra"] == {"level": 0}
    assert by_id["p5"]["subdomain"] == "algebra"
    assert by_id["labelled"]["subdomain"] == "geometry"
    assert by_id["labelled"]["solution"] == "So 1."
    assert by_id["labelled"]["extra"] == {"subject": "Geometry"}

    report = artifact.report
    assert report["rows_read"] == 206
    assert report["dropped"] == {"no_problem": 1, "no_answer": 1}
    assert report["duplicates"] == [
        {"id": "dup", "kept_id": "p7", "same_answer": True},
        {"id": "dup2", "kept_id": "p8", "same_answer": False},
    ]
    assert report["duplicates_with_another_answer"] == 1
    bench = str(inputs.benchmarks[0])
    assert report["contaminated"] == [
        {"id": "p3", "benchmark": "bench", "benchmark_id": "bench-1", "similarity": 1.0, "removed": True},
        {"id": "p9", "benchmark": "bench", "benchmark_id": "bench-3", "similarity": 0.75, "removed": True},
        {
            "id": "near",
            "benchmark": "bench",
            "benchmark_id": "bench-4",
            "similarity": 7 / 13,
            "removed": False,
        },
    ]
    assert bench not in json.dumps(report)  # paths are provenance: the digest must not depend on them
    assert report["benchmarks"] == {"bench": 4}
    assert report["problems"] == 200
    assert report["counts"] == {name: len(rows[name]) for name in SUBSETS}
    assert sum(report["shares"].values()) == pytest.approx(1)
    for name in SUBSETS:
        assert list(report["subdomains"][name]) == list(SUBDOMAINS)
        counts = Counter(row["subdomain"] for row in rows[name])
        assert report["subdomains"][name] == {subdomain: counts[subdomain] for subdomain in SUBDOMAINS}
    assert artifact.manifest.summary == {
        "problems": 200, **report["counts"], "dropped": 2, "duplicates": 2, "contaminated": 2,
        "resembling": 1,
    }  # fmt: skip
    assert heard.done == 200
    assert heard.phases[-1][1] == 200
    assert heard.warnings == []


def test_same_inputs_same_digest_wherever_they_lie(tmp_path: Path) -> None:
    digests = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        inputs = _messy(tmp_path / folder)
        artifact = split_data.run(inputs, SplitOptions(), Output(tmp_path / folder / "split"))
        assert split_data.plan(inputs, SplitOptions()).key == artifact.manifest.key
        digests.append(artifact.manifest.digest)
    assert digests[0] == digests[1]
    other = split_data.run(inputs, SplitOptions(seed=1), Output(tmp_path / "other"))
    assert other.manifest.digest != digests[0]


def test_adding_and_reordering_rows_moves_no_row(tmp_path: Path) -> None:
    def places(name: str, rows: list[dict[str, Any]]) -> dict[str, str]:
        source = _jsonl(tmp_path / f"{name}.jsonl", rows)
        artifact = split_data.run(SplitInputs(problems=str(source)), SplitOptions(), Output(tmp_path / name))
        return {row["id"]: subset for subset in SUBSETS for row in artifact.jsonl(f"{subset}.jsonl")}

    few = places("few", _problems(150))
    many = places("many", _problems(300)[::-1])
    assert few == {identity: many[identity] for identity in few}


def test_exact_counts(tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "p.jsonl", _problems(200))
    options = SplitOptions(exact_counts=True)
    artifact = split_data.run(SplitInputs(problems=str(source)), options, Output(tmp_path / "split"))
    assert artifact.report["counts"] == {"a": 20, "b": 40, "c": 130, "d": 10}


def test_plan_writes_nothing_and_tells_sizes(tmp_path: Path) -> None:
    inputs = _messy(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    plan = split_data.plan(inputs, SplitOptions())
    assert plan.sizes == {"problems": 204, "rows dropped": 2, "benchmark problems": 4}
    assert {role: parent.kind for role, parent in plan.parents.items()} == {
        "problems": "file", "benchmark.0": "file"
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_other_columns(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "final": i, "topic": "Geometry"} for i in range(20)]
    source = _jsonl(tmp_path / "p.jsonl", rows)
    options = SplitOptions(problem_column="question", answer_column="final", subject_column="topic")
    benchmark = _jsonl(tmp_path / "b.jsonl", [{"problem": "4?"}, {"question": "5?"}])
    inputs = SplitInputs(problems=str(source), benchmarks=[benchmark])
    artifact = split_data.run(inputs, options, Output(tmp_path / "split"))
    left = [row for subset in SUBSETS for row in artifact.jsonl(f"{subset}.jsonl")]
    assert {row["problem"] for row in left} == {f"{i}?" for i in range(20)} - {"4?", "5?"}
    assert {row["subdomain"] for row in left} == {"geometry"}
    assert all(row["id"].startswith("p-") for row in left)


def test_an_empty_subset_is_a_warning_that_says_the_cure(tmp_path: Path) -> None:
    source, heard = _jsonl(tmp_path / "p.jsonl", _problems(3)), _Heard()
    split_data.run(SplitInputs(problems=str(source)), SplitOptions(), Output(tmp_path / "split"), heard)
    assert heard.warnings
    assert all("too few for a share of" in text and "--exact-counts" in text for text in heard.warnings)


def test_refusals(tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "p.jsonl", _problems(20))
    inputs = SplitInputs(problems=str(source))
    with pytest.raises(UsageError, match=r"add up to 1\.1 where 1 is needed"):
        split_data.plan(inputs, SplitOptions(ratios=(0.2, 0.2, 0.65, 0.05)))
    with pytest.raises(UsageError, match="problem column 'question'"):
        split_data.plan(inputs, SplitOptions(problem_column="question"))
    with pytest.raises(PaddError, match="does not exist"):
        split_data.plan(SplitInputs(problems=str(source), benchmarks=[tmp_path / "no.jsonl"]), SplitOptions())
    nothing = _jsonl(tmp_path / "b.jsonl", [{"question": "4?"}])
    with pytest.raises(PaddError, match="nothing can be compared"):
        split_data.plan(SplitInputs(problems=str(source), benchmarks=[nothing]), SplitOptions())
    with pytest.raises(PaddError, match="is left after dropping"):
        split_data.run(
            SplitInputs(problems=str(source), benchmarks=[source]), SplitOptions(), Output(tmp_path / "s")
        )
    twice = _jsonl(tmp_path / "t.jsonl", [{**row, "id": "same"} for row in _problems(3)])
    with pytest.raises(PaddError, match=r"'same' is one"):
        split_data.run(SplitInputs(problems=str(twice)), SplitOptions(), Output(tmp_path / "s"))
    (tmp_path / "s" / "mine").mkdir(parents=True)
    with pytest.raises(PaddError, match="exists and is not overwritten"):
        split_data.run(inputs, SplitOptions(), Output(tmp_path / "s"))
    assert list(tmp_path.glob(".*")) == []


@pytest.fixture
def real() -> Path:
    folder = Path(os.environ.get("PADD_DATA", "/nonexistent"))
    if not folder.is_dir():
        pytest.skip("PADD_DATA names no folder")
    return folder


@pytest.mark.data
def test_gsm8k(real: Path, tmp_path: Path) -> None:
    inputs = SplitInputs(problems=str(real / "gsm8k_train.jsonl"), benchmarks=[real / "gsm8k_test.jsonl"])
    report = split_data.run(inputs, SplitOptions(), Output(tmp_path / "split")).report
    assert report["rows_read"] == 7_473
    assert report["dropped"] == {"no_problem": 0, "no_answer": 0}
    assert (
        report["problems"]
        + len(report["duplicates"])
        + len({f["id"] for f in report["contaminated"] if f["removed"]})
        == 7_473
    )
    for name, ratio in zip(SUBSETS, SplitOptions().ratios, strict=True):
        assert abs(report["shares"][name] - ratio) < 0.012


@pytest.mark.data
def test_deepscaler_against_benchmarks(real: Path, tmp_path: Path) -> None:
    inputs = SplitInputs(
        problems=str(real / "deepscaler_sub1209.jsonl"),
        benchmarks=[real / "math500.jsonl", real / "aime24.jsonl"],
    )
    report = split_data.run(inputs, SplitOptions(), Output(tmp_path / "split")).report
    assert report["rows_read"] == 1_209
    assert report["dropped"] == {"no_problem": 0, "no_answer": 1}
    assert [found["kept_id"] for found in report["duplicates"]] == ["dsr-sub-136"] * 2
    assert not any(found["removed"] for found in report["contaminated"])
    assert report["problems"] == 1_206
    assert report["benchmarks"] == {"math500": 500, "aime24": 30}


@pytest.mark.data
def test_aime_overlaps_math500(real: Path, tmp_path: Path) -> None:
    """Ten problems are in both, by eye: three letter by letter, four in another layout, three in other words."""
    inputs = SplitInputs(problems=str(real / "aime_1983_2023.jsonl"), benchmarks=[real / "math500.jsonl"])
    for threshold, count in ((0.4, 10), (1.0, 7)):
        options = SplitOptions(contamination_threshold=threshold)
        report = split_data.run(inputs, options, Output(tmp_path / str(threshold))).report
        removed = [found for found in report["contaminated"] if found["removed"]]
        assert len(removed) == count
        assert all(found["benchmark_id"].startswith("test/") for found in removed)
