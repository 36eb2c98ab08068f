"""Vocabularies mapped by string, and the ends of responses onto each other."""

from typing import Any

import pytest

from padd_stages.lib.models.vocabulary import VocabularyMap, map_vocabularies

MANY = [f"w{i}" for i in range(400)]  # one word that is not shared may not matter


class Words:
    """What is asked of a tokenizer."""

    def __init__(self, words: list[str], end: str) -> None:
        self.words, self.eos_token_id = words, words.index(end)

    def get_vocab(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def convert_ids_to_tokens(self, index: int) -> str:
        return self.words[index]


def mapped(student: Any, teacher: Any, ends: list[str]) -> tuple[VocabularyMap, dict[str, str]]:
    found = map_vocabularies(
        student, teacher, len(student.words), len(teacher.words), [teacher.words.index(end) for end in ends]
    )
    pairs = {student.words[i]: teacher.words[int(j)] for i, j in enumerate(found.to_teacher) if j >= 0}
    targets = found.to_teacher[found.to_teacher >= 0].tolist()
    assert len(set(targets)) == len(targets), "one to one"
    return found, pairs


def test_equal_ends_are_left_alone():
    words = [*MANY, "<end>", "<im_end>"]
    found, pairs = mapped(Words(words, "<end>"), Words(words, "<end>"), ["<end>"])
    assert found.ends is None
    assert found.student_index is None
    assert all(a == b for a, b in pairs.items())


def test_an_end_that_is_another_of_the_teachers_ends_is_left_alone():
    words = [*MANY, "<end>", "<im_end>"]
    found, pairs = mapped(Words(words, "<im_end>"), Words(words, "<end>"), ["<end>", "<im_end>"])
    assert found.ends is None
    assert pairs["<im_end>"] == "<im_end>"


def test_an_end_that_the_teacher_never_says_is_exchanged_with_the_teachers():
    words = [*MANY, "<end>", "<im_end>"]
    found, pairs = mapped(Words(words, "<im_end>"), Words(words, "<end>"), ["<end>"])
    assert found.ends == ("<im_end>", "<end>")
    assert (pairs["<im_end>"], pairs["<end>"]) == ("<end>", "<im_end>")
    assert found.translate([words.index("<im_end>")]) == ([words.index("<end>")], [True])
    assert {a: b for a, b in pairs.items() if a.startswith("w")} == {word: word for word in MANY}


@pytest.mark.parametrize("student_has_it", [False, True])
def test_an_end_that_the_teacher_lacks(student_has_it):
    student = Words([*MANY, *(["</s>"] if student_has_it else []), "<eot>"], "<eot>")
    found, pairs = mapped(student, Words([*MANY, "</s>"], "</s>"), ["</s>"])
    assert found.ends == ("<eot>", "</s>")
    assert pairs["<eot>"] == "</s>"
    assert "</s>" not in pairs, "no word is left for it"
    assert found.shared == pytest.approx(401 / len(student.words))


def test_without_ends_strings_alone_count():
    words = [*MANY, "<end>", "<im_end>"]
    found = map_vocabularies(Words(words, "<im_end>"), Words(words, "<end>"), 402, 402)
    assert found.ends is None
    assert found.student_index is None
