import json

import pytest

from padd_artifacts.errors import PaddError
from padd_stages.data.subdomains import SUBDOMAINS
from padd_stages.report.texts import analysis_texts, read_texts

SOLVED = {"problem": "find the sum of 1 2", "solution": "the sum is 3", "subdomain": "algebra"}
OPEN = {"problem": "find the area of a", "solution": None, "subdomain": "geometry"}


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
    (text,), left_out = texts_of(tokenizer, [SOLVED, SOLVED | {"problem": "find " * 9}], max_tokens=12)
    assert counted_words(tokenizer, text) == ["the", "sum"]
    assert len(text) == 12
    assert left_out == 1


def test_labels_of_other_data_sets_and_of_none(tokenizer):
    rows = [
        {"problem": "find", "subject": "Prealgebra"},
        {"problem": "the probability that a card is drawn at random", "subdomain": None},
    ]
    texts, _ = texts_of(tokenizer, rows)
    assert [SUBDOMAINS[text.subdomain] for text in texts] == ["algebra", "combinatorics & probability"]


def test_rows_need_a_problem_but_no_answer(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(OPEN) + "\n\n" + json.dumps(SOLVED) + "\n")
    assert read_texts(path) == [OPEN, SOLVED]
    path.write_text(json.dumps(OPEN) + '\n{"question": "find"}\n')
    with pytest.raises(PaddError, match=r"row 2 .* has no 'problem'"):
        read_texts(path)
    path.write_text(json.dumps(OPEN) + "\n{broken\n")
    with pytest.raises(PaddError, match="line 2"):
        read_texts(path)
    with pytest.raises(PaddError, match="does not exist"):
        read_texts(tmp_path / "none.jsonl")
