import json
from dataclasses import replace

import pytest

from padd_artifacts.artifact import open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.writer import Output
from padd_stages.analyze_experts.texts import (
    AnalysisText,
    Row,
    analysis_texts,
    counted_ends,
    read_split,
    read_texts,
    sample_texts,
)
from padd_stages.lib.data.subdomains import SUBDOMAINS
from padd_stages.split_data import stage as split_data
from padd_stages.split_data.options import SplitInputs, SplitOptions

SOLVED = Row("find the sum of 1 2", "the sum is 3", "algebra", "algebra")
OPEN = Row("find the area of a", None, "geometry", "geometry")
TEMPLATE = {"system": "so", "thinking": False}


def texts_of(tokenizer, rows, **changes):
    options = {"system": "so", "thinking": False, "max_tokens": 99} | changes
    return analysis_texts(tokenizer, rows, **options)


def counted_words(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(list(text.ids[text.first : text.last]))


def test_the_solution_is_counted_where_there_is_one(tokenizer):
    (text,), left_out = texts_of(tokenizer, [SOLVED])
    words = tokenizer.convert_ids_to_tokens(list(text.ids))
    assert words == [
        "ask",
        "so",
        "ask",
        "find",
        "the",
        "sum",
        "of",
        "1",
        "2",
        "reply",
        "the",
        "sum",
        "is",
        "3",
    ]
    assert counted_words(tokenizer, text) == ["the", "sum", "is", "3"]
    assert SUBDOMAINS[text.subdomain] == "algebra"
    assert left_out == 0


def test_else_the_problem_is_without_its_template(tokenizer):
    (text,), _ = texts_of(tokenizer, [OPEN])
    assert counted_words(tokenizer, text) == ["find", "the", "area", "of", "a"]
    assert tokenizer.decode(list(text.ids)) == "ask so ask find the area of a reply"
    assert SUBDOMAINS[text.subdomain] == "geometry"


def test_long_texts_are_cut_and_those_with_nothing_left_are_counted(tokenizer):
    (text,), left_out = texts_of(tokenizer, [SOLVED, replace(SOLVED, problem="find " * 9)], max_tokens=12)
    assert counted_words(tokenizer, text) == ["the", "sum"]
    assert len(text) == 12
    assert left_out == 1


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_labels_of_other_data_sets_and_of_none(tmp_path):
    rows = read_texts(
        write_rows(
            tmp_path / "problems.jsonl",
            [
                {"problem": "find", "subject": "Prealgebra"},
                {
                    "problem": "the probability that a card is drawn at random",
                    "subdomain": None,
                    "subject": 7,
                },
                {"problem": "find the area of a triangle", "subdomain": "fun", "subject": "number_theory"},
            ],
        )
    )
    assert [row.subdomain for row in rows] == ["algebra", "combinatorics & probability", "number theory"]
    assert [row.label for row in rows] == ["algebra", None, "number theory"]


@pytest.mark.parametrize("column", ["subject", "kind"])
def test_what_split_data_found_by_keywords_is_no_label(tmp_path, column):
    problems = [
        {"problem": f"find the area of the triangle {i}", "answer": "1"}
        | ({column: "Prealgebra"} if i % 2 else {})
        for i in range(8)
    ]
    split = tmp_path / "split"
    split_data.run(
        SplitInputs(problems=str(write_rows(tmp_path / "problems.jsonl", problems))),
        SplitOptions(ratios=(0, 0, 0, 1), subject_column=column),
        Output(split),
    )
    rows = read_split(open_artifact(split))
    found = {int(row.problem[-1]): (row.subdomain, row.label) for row in rows}
    for i in range(8):
        assert found[i] == (("algebra", "algebra") if i % 2 else ("geometry", None))


def test_ends_tell_the_character_of_what_is_counted(tokenizer):
    (text,), _ = texts_of(tokenizer, [SOLVED])
    assert counted_ends(tokenizer, SOLVED, text, **TEMPLATE) == (3, 7, 10, 12)  # the sum is 3
    (cut,), _ = texts_of(tokenizer, [SOLVED], max_tokens=12)
    assert counted_ends(tokenizer, SOLVED, cut, **TEMPLATE) == (3, 7)
    (text,), _ = texts_of(tokenizer, [OPEN])
    assert counted_ends(tokenizer, OPEN, text, **TEMPLATE) == (4, 8, 13, 16, 18)  # find the area of a
    spaced = replace(OPEN, problem="  find the area of a ")
    assert counted_ends(tokenizer, spaced, text, **TEMPLATE) == (4, 8, 13, 16, 18)


def test_a_template_that_changes_the_problem_and_a_slow_tokenizer(tokenizer, monkeypatch):
    (text,), _ = texts_of(tokenizer, [OPEN])
    monkeypatch.setattr(tokenizer, "chat_template", "ask find the area")
    assert counted_ends(tokenizer, OPEN, text, **TEMPLATE) == (-1,) * 5
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(PaddError, match="slow tokenizer"):
        counted_ends(tokenizer, OPEN, text, **TEMPLATE)


def test_a_sample_is_whole_texts_within_its_tokens():
    texts = [AnalysisText((1,) * 9, 0, 2 + i % 5, 0, i) for i in range(50)]
    chosen = sample_texts(texts, 60, seed=3)
    assert 54 <= sum(text.counted for text in chosen) <= 60
    assert [text.row for text in chosen] == sorted({text.row for text in chosen})
    assert chosen == sample_texts(texts, 60, seed=3) != sample_texts(texts, 60, seed=4)
    assert len(sample_texts(texts, 1, seed=0)) == 1
    assert sample_texts(texts, 10_000, seed=0) == texts


def test_rows_need_a_problem_but_no_answer(tmp_path):
    path = tmp_path / "problems.jsonl"
    rows = [
        {key: row.__dict__[key] for key in ("problem", "solution", "subdomain")} for row in (OPEN, SOLVED)
    ]
    path.write_text(json.dumps(rows[0]) + "\n\n" + json.dumps(rows[1]) + "\n")
    assert read_texts(path) == [OPEN, SOLVED]
    path.write_text(json.dumps(rows[0]) + '\n{"question": "find"}\n')
    with pytest.raises(PaddError, match=r"row 2 .* has no 'problem'"):
        read_texts(path)
    path.write_text(json.dumps(rows[0] | {"solution": ["so"]}) + "\n")
    with pytest.raises(PaddError, match=r"row 1 .* 'solution' that is no text"):
        read_texts(path)
    path.write_text(json.dumps(rows[0]) + "\n{broken\n")
    with pytest.raises(PaddError, match="line 2"):
        read_texts(path)
    with pytest.raises(PaddError, match="does not exist"):
        read_texts(tmp_path / "none.jsonl")
