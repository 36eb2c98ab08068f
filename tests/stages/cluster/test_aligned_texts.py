"""Texts of D_A: alignment of two tokenizers by where tokens end."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from padd_artifacts.errors import PaddError
from padd_stages.cluster.aligned_texts import batches, flat_positions, read_texts, text_of, tokenize
from padd_stages.lib.data.alignment import align
from padd_stages.lib.data.sequences import hold_out, pad_rows


def tokenizer_of(pattern: str, words: list[str], *, begin: bool) -> PreTrainedTokenizerFast:
    from tokenizers import Regex

    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    if begin:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", pad_token="<unk>"
    )


WORDS = tokenizer_of(r" ?[a-z0-9]+|\n", ["ab", " cd", "\n", "12"], begin=True)
CHARACTERS = tokenizer_of(r"[\s\S]", list("abcd12 \n"), begin=False)


def test_text_is_problem_and_solution_or_the_problem_alone():
    assert text_of({"problem": "P", "solution": "S"}) == "P\nS"
    assert text_of({"problem": "P", "solution": None}) == "P"


def test_tokens_know_where_they_end_and_special_ones_end_nowhere():
    tokens = tokenize(WORDS, "ab cd\n12", 99)
    assert tokens.ends == (-1, 2, 5, 6, 8)
    assert tokens.text_positions.tolist() == [1, 2, 3, 4]
    assert tokenize(WORDS, "ab cd\n12", 3).ends == (-1, 2, 5)


def test_alignment_by_hand():
    words, characters = tokenize(WORDS, "ab cd\n12", 99), tokenize(CHARACTERS, "ab cd\n12", 99)
    assert align(words.ends, characters.ends).tolist() == [[1, 2, 3, 4], [1, 4, 5, 7]]
    # Several byte tokens of one character end at the same place: the last of them stands for it.
    assert align([1, 4, 4, 4], [4, 4, 5]).tolist() == [[3], [1]]
    assert align([], [3]).shape == (2, 0)


def test_a_tokenizer_aligns_with_itself_one_to_one():
    tokens = tokenize(WORDS, "ab cd\n12 cd", 99)
    pairs = align(tokens.ends, tokens.ends)
    assert np.array_equal(pairs[0], pairs[1])
    assert np.array_equal(pairs[0], tokens.text_positions)


def rows(count):
    return [
        {"problem": "ab cd" + " cd" * (i % 5), "solution": "12" if i % 2 else None, "subdomain": "algebra"}
        for i in range(count)
    ]


def test_reading_stops_at_the_token_limit_and_follows_the_seed():
    def read(seed, limit):
        return read_texts(rows(40), WORDS, CHARACTERS, seed=seed, max_tokens=limit, max_lengths=(99, 99))

    everything = read(0, 10**6)
    assert len(everything) == 40
    some = read(0, 60)
    assert [text.student for text in some] == [text.student for text in everything[: len(some)]]
    assert sum(len(t.student.ids) for t in some) >= 60 > sum(len(t.student.ids) for t in some[:-1])
    assert [t.student for t in read(1, 10**6)] != [t.student for t in everything]
    with pytest.raises(PaddError, match="gives 1 texts and 2 are needed"):
        read(0, 1)


def test_hold_out_keeps_one_of_each():
    texts = read_texts(rows(20), WORDS, CHARACTERS, seed=0, max_tokens=10**6, max_lengths=(99, 99))
    fitted, held = hold_out(texts, 0.1)
    assert (len(fitted), len(held)) == (18, 2)
    assert [len(part) for part in hold_out(texts[:2], 0.9)] == [1, 1]
    assert [len(part) for part in hold_out(texts[:3], 0.01)] == [2, 1]


def test_batches_hold_every_text_once_and_flat_positions_find_its_tokens():
    texts = read_texts(rows(9), WORDS, CHARACTERS, seed=0, max_tokens=10**6, max_lengths=(99, 99))
    grouped = list(batches(texts, 60))
    assert sorted(len(t.student.ids) for g in grouped for t in g) == sorted(len(t.student.ids) for t in texts)
    group = max(grouped, key=len)
    assert len(group) > 1
    ids, mask = pad_rows([text.teacher.ids for text in group], 0)
    flat = flat_positions([text.teacher.text_positions for text in group], ids.shape[1])
    found = ids.flatten()[flat].tolist()
    assert found == [text.teacher.ids[i] for text in group for i in text.teacher.text_positions]
    assert mask.sum().item() == sum(len(text.teacher.ids) for text in group)
