"""Reading problems: formats, columns, and one clear sentence for each thing that can be wrong."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from padd_artifacts.errors import PaddError, UsageError
from padd_stages.lib.data.problems import load_problems, read_problems, text_id

ROWS: list[dict[str, Any]] = [
    {"id": "p1", "problem": "1+1?", "answer": "2", "solution": "It is 2.", "subject": "Algebra", "level": 3},
    {"id": "p2", "problem": "1+2?", "answer": "3", "solution": None, "subject": None, "level": None},
]


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _write(folder: Path, suffix: str) -> str:
    path = folder / f"problems{suffix}"
    if suffix == ".jsonl":
        return _jsonl(path, ROWS)
    if suffix == ".json":
        path.write_text("\ufeff" + json.dumps(ROWS), encoding="utf-8")
    elif suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        path.write_text(
            "id,problem,answer,solution,subject,level\np1,1+1?,2,It is 2.,Algebra,3\np2,1+2?,3,,,\n"
        )
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = load_problems(_write(tmp_path, suffix))
    levels = [row.pop("extra")["level"] for row in rows]
    assert rows == [{key: value for key, value in row.items() if key != "level"} for row in ROWS]
    assert levels == (["3", ""] if suffix == ".csv" else [3, None])


def test_columns_by_name_and_the_rest_under_extra(tmp_path: Path) -> None:
    source = _jsonl(
        tmp_path / "p.jsonl", [{"question": "1+1?", "final": [2, ""], "work": "so 2", "topic": "x", "k": 1}]
    )
    [row] = load_problems(
        source,
        problem_column="question",
        answer_column="final",
        solution_column="work",
        subject_column="topic",
    )
    assert row == {
        "id": text_id("1+1?"),
        "problem": "1+1?",
        "answer": [2],
        "solution": "so 2",
        "subject": "x",
        "extra": {"topic": "x", "k": 1},
    }


def test_rows_without_problem_or_answer_are_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"problem": "a?", "answer": 0},
        {"problem": " ", "answer": 1},
        {"answer": 1},
        {"problem": None, "answer": None},
        {"problem": "b?", "answer": ""},
        {"problem": "c?", "answer": [None, " "]},
        {"problem": "d?", "answer": float("nan")},
        {"problem": "e?"},
    ]
    found = read_problems(_jsonl(tmp_path / "p.jsonl", rows))
    assert [(row["problem"], row["answer"]) for row in found.rows] == [("a?", 0)]
    assert (found.no_problem, found.no_answer) == (3, 4)


def test_rows_of_a_split_artifact_can_be_read_again(tmp_path: Path) -> None:
    first = load_problems(_jsonl(tmp_path / "p.jsonl", ROWS))
    for row in first:
        row["subdomain"] = "algebra"
    again = load_problems(_jsonl(tmp_path / "again.jsonl", first))
    assert [row["id"] for row in again] == ["p1", "p2"]
    assert again[0]["subject"] == "Algebra"
    assert again[0]["extra"] == {"subject": "Algebra", "level": 3, "subdomain": "algebra"}


def test_extra_can_always_be_written_as_json(tmp_path: Path) -> None:
    import datetime

    path = tmp_path / "p.parquet"
    day = datetime.date(2024, 1, 2)
    row = {"problem": "a?", "answer": "1", "day": day, "score": float("inf"), "more": [{"b": b"\x00"}]}
    parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    [read] = load_problems(str(path))
    json.dumps(read, allow_nan=False)
    assert read["extra"]["day"] == "2024-01-02"
    assert read["extra"]["score"] is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.jsonl", b"", r"is empty, so there are no problems"),
        ("p.jsonl", b"\n \n", r"is empty"),
        ("p.json", b"", r"is empty"),
        ("p.json", b"[]", r"is empty"),
        ("p.csv", b"problem,answer\n", r"is empty"),
        ("p.jsonl", b'{"problem": "a", "answer": 1}\n\n{"problem": \n', r"line 3 of .* is not valid JSON"),
        (
            "p.jsonl",
            b'{"problem": "a", "answer": 1}\n[1]\n',
            r"line 2 of .* is a list where an object is needed",
        ),
        ("p.jsonl", b'{"problem": "\xff"}\n', r"is not UTF-8 text \(byte 13\)"),
        ("p.json", b'{"data": []}', r"is not a list of objects"),
        ("p.json", b"[1, 2", r"is not valid JSON"),
        ("p.jsonl", b"[" * 100_000, r"line 1 of .* is not valid JSON"),
        ("p.parquet", b"no parquet", r"is not a readable parquet file"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PaddError, match=words) as caught:
        load_problems(str(path))
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (("question", "answer"), r"no row .* problem column 'problem' \(columns: question, answer\).*"
         r"did you mean column 'question'\? Name it with --problem-column"),
        (("problems", "answer"), r"did you mean column 'problems'\?"),
        (("xyz", "answer"), r"name the right one with --problem-column"),
        (("problem", "ground_truth"), r"did you mean column 'ground_truth'\?.*--answer-column"),
    ],
)  # fmt: skip
def test_a_column_that_no_row_has(tmp_path: Path, columns: tuple[str, str], words: str) -> None:
    source = _jsonl(tmp_path / "p.jsonl", [dict(zip(columns, ("1+1?", "2"), strict=True))])
    with pytest.raises(UsageError, match=words):
        load_problems(source)


def test_the_usual_name_is_suggested_before_a_similar_one(tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "p.jsonl", ROWS)
    with pytest.raises(UsageError, match=r"'question'.*did you mean column 'problem'\?"):
        load_problems(source, problem_column="question")


def test_a_column_that_holds_no_text(tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "p.jsonl", [{"problem": [{"role": "user", "content": "1+1?"}], "answer": "2"}])
    with pytest.raises(UsageError, match=r"'problem' of .* holds list where text is needed"):
        load_problems(source)


@pytest.mark.parametrize("source", ["missing.jsonl", "folder/missing.parquet", "no spaces here/x y", "plain"])
def test_a_missing_file(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PaddError, match=r"does not exist.*\.jsonl.*hub data set"):
        load_problems(source)


def test_a_folder_and_an_unknown_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(PaddError, match="is a folder, not a file"):
        load_problems(str(tmp_path))
    (tmp_path / "p.txt").write_text("1+1?")
    with pytest.raises(UsageError, match=r"of no known kind.*\.jsonl"):
        load_problems(str(tmp_path / "p.txt"))


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("owner/name", ("owner/name", None, "train")),
        ("owner/name:test", ("owner/name", None, "test")),
        ("owner/name/main:test[:10]", ("owner/name", "main", "test[:10]")),
    ],
)
def test_hub_data_sets(source: str, asked: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str) -> datasets.Dataset:
        calls.append((name, config, split))
        return datasets.Dataset.from_list([{"problem": "1+1?", "answer": "2"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [row["answer"] for row in load_problems(source)] == ["2"]
    assert calls == [asked]


def test_offline_says_what_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the Hub\nmore lines")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        PaddError, match=r"no file owner/name here.*'owner/name' \(split 'train'\).*reach the Hub\).*"
    ):
        load_problems("owner/name")
