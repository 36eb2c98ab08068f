"""Decoding gives back what was encoded, numbers included, and the two vocabularies differ in order only."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from math_verify import parse, verify
from transformers import AutoTokenizer

from padd_stages.toy.problems import KINDS, generate
from padd_stages.toy.tokenizer import SPECIAL, build_tokenizer, pieces

TOKENIZER = build_tokenizer(1)
ORDINARY = sorted(set(TOKENIZER.get_vocab()) - set(SPECIAL))


def round_trip(text: str) -> str:
    return TOKENIZER.decode(TOKENIZER(text).input_ids)


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{12}",
        r"\boxed{-3}",
        r"\boxed{3/4}",
        "12 + 7",
        "12 7",
        "1 2 + 7",
        "12+7",
        "- 28 and -28",
        "  so  \n= 4",
        "Let y = 4x^2 - 5x. Find y' at 12.",
    ],
)
def test_texts_come_back_exactly(text):
    assert round_trip(text) == text


@given(
    st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=6),
    st.sampled_from([" ", " + ", ", ", "-", " / "]),
)
@settings(max_examples=200, deadline=None)
def test_numbers_never_merge_nor_fall_apart(values, between):
    text = between.join(map(str, values))
    assert round_trip(text) == text


@given(st.lists(st.sampled_from(ORDINARY), max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_of_known_pieces_comes_back_exactly(parts):
    text = "".join(parts)
    if all(piece in TOKENIZER.get_vocab() for piece in pieces(text)):  # "Find" + "the" is one unknown word
        assert round_trip(text) == text


@given(st.integers(-5000, 5000), st.integers(1, 99))
@settings(max_examples=50, deadline=None)
def test_a_boxed_answer_survives_for_the_grader(top, bottom):
    for answer in (str(top), f"{top}/{bottom}"):
        decoded = round_trip(f"1 + 2 = 3 so \\boxed{{{answer}}}")
        assert verify(parse(f"\\boxed{{{answer}}}"), parse(decoded))


def test_every_word_of_every_problem_is_known():
    for pool in ("demo", "pretraining"):
        for row in generate(3_500, seed=9, pool=pool):
            ids = TOKENIZER(row["problem"] + " " + row["solution"]).input_ids
            assert TOKENIZER.unk_token_id not in ids, row
            assert len(ids) <= 64


def test_problems_with_solutions_are_short():
    lengths = [len(TOKENIZER(row["problem"] + row["solution"]).input_ids) for row in generate(1_400, seed=9)]
    assert 25 < sum(lengths) / len(lengths) < 38


def test_one_digit_is_one_token():
    tokens = TOKENIZER.convert_ids_to_tokens(TOKENIZER("Add 123, 4 and \\boxed{56}").input_ids)
    assert tokens == ["Add", " 1", "2", "3", ",", " 4", " and", " \\boxed{", "5", "6", "}"]


def test_offsets_cover_the_text():
    text = "Solve 7x - 12 = 37."
    offsets = TOKENIZER(text, return_offsets_mapping=True)["offset_mapping"]
    assert [text[start:end] for start, end in offsets] == pieces(text)
    assert offsets[0][0] == 0
    assert offsets[-1][1] == len(text)
    assert all(before[1] == after[0] for before, after in pairwise(offsets))


def test_two_orders_hold_the_same_tokens_under_other_ids():
    first, second = build_tokenizer(1).get_vocab(), build_tokenizer(2).get_vocab()
    assert set(first) == set(second)
    assert sorted(second.values()) == list(range(len(second)))
    assert sum(first[token] == second[token] for token in first) < len(first) // 10
    assert build_tokenizer(2).get_vocab() == second


def test_chat_template_keeps_problem_and_answer_and_drops_the_system_turn():
    turns = [{"role": "system", "content": "Reason."}, {"role": "user", "content": "Add 1, 2 and 3."}]
    prompt = TOKENIZER.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert prompt == "<|begin|><|user|>Add 1, 2 and 3.<|assistant|>"
    whole = TOKENIZER.apply_chat_template(
        [*turns, {"role": "assistant", "content": "\\boxed{6}"}], tokenize=False
    )
    assert whole == prompt + "\\boxed{6}<|end|>"
    ids = TOKENIZER(whole).input_ids
    assert ids[0] == TOKENIZER.bos_token_id
    assert ids[-1] == TOKENIZER.eos_token_id
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "Add 1, 2 and 3.\\boxed{6}"


def test_saved_and_loaded_it_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    rows = generate(len(KINDS) * 5, seed=2)
    for row in rows:
        turns = [
            {"role": "user", "content": row["problem"]},
            {"role": "assistant", "content": row["solution"]},
        ]
        ids = loaded.apply_chat_template(turns)["input_ids"]
        assert ids == TOKENIZER.apply_chat_template(turns)["input_ids"]
        assert loaded.decode(ids) == TOKENIZER.decode(ids)
    assert loaded.is_fast
    assert (loaded.pad_token_id, loaded.eos_token_id) == (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id)
