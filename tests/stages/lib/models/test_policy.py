"""The policy's hidden states and head give the model's own log-probabilities, also across vocabularies."""

import pytest
import torch

from padd_artifacts.errors import PaddError
from padd_stages.lib.data.sequences import TokenSequence, collate, micro_batches
from padd_stages.lib.models.loading import load_model
from padd_stages.lib.models.policy import Policy, token_logprobs
from padd_stages.lib.models.teacher import Teacher, teacher_input
from padd_stages.lib.models.vocabulary import VocabularyMap, map_vocabularies


def test_log_probabilities_of_a_padded_batch_are_those_of_each_sequence_alone(pico):
    student = load_model(str(pico.student))
    policy = Policy(student.model)
    policy.verify()
    sequences = [
        TokenSequence((3, 5), (7, 9, 11)),
        TokenSequence((4,), (8,)),
        TokenSequence((2, 6, 10), (12, 13)),
    ]
    batch = collate(sequences, student.pad_id)
    with torch.no_grad():
        found = policy(
            batch.input_ids,
            batch.attention_mask,
            batch.select,
            lambda h, w: token_logprobs(h, w, batch, 1.0)[0],
        )
        expected = []
        for sequence in sequences:
            ids = torch.tensor([sequence.prompt_ids + sequence.response_ids])
            logprobs = student.model(input_ids=ids).logits.log_softmax(-1)[0]
            start = len(sequence.prompt_ids)
            expected += [logprobs[start + t - 1, token] for t, token in enumerate(sequence.response_ids)]
    assert torch.allclose(found, torch.stack(expected), atol=1e-5)
    assert batch.rows.tolist() == [0, 0, 0, 1, 2, 2]
    padded = batch.pad(found)
    assert padded.shape == (3, 3)
    assert torch.equal(padded[batch.response_mask], found)
    assert padded[1, 1:].tolist() == [0, 0]


def test_a_family_with_another_head_is_refused(pico):
    student = load_model(str(pico.student))
    policy = Policy(student.model)
    student.model.lm_head.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(PaddError, match="output matrix times hidden state"):
        policy.verify()


def test_micro_batches_hold_everything_once_within_the_budget():
    lengths = [5, 30, 7, 7, 2, 11]
    batches = micro_batches(lengths, 24)
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 24


def test_vocabularies_are_mapped_by_string(pico):
    student, teacher = load_model(str(pico.student)), load_model(str(pico.teacher))
    rows = len(student.tokenizer)
    mapping = map_vocabularies(student.tokenizer, teacher.tokenizer, rows, rows)
    assert mapping.student_index is not None
    text = "Solve 12 + 7"
    ids = student.tokenizer(text, add_special_tokens=False)["input_ids"]
    theirs = teacher.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids != theirs
    assert mapping.translate(ids) == (theirs, [True] * len(ids))
    same = map_vocabularies(student.tokenizer, student.tokenizer, rows, rows)
    assert same.student_index is None
    with pytest.raises(PaddError, match="share"):
        map_vocabularies(student.tokenizer, _Words({"other": 0}), rows, 1)


class _Words:
    def __init__(self, words: dict[str, int]) -> None:
        self.words = words

    def get_vocab(self) -> dict[str, int]:
        return self.words


def test_unknown_tokens_are_dropped_and_positions_beyond_the_limit_masked():
    mapping = VocabularyMap(torch.tensor([10, -1, 12, 13]), None, None, 1.0)
    sequence = TokenSequence((0,), (0, 1, 2, 3, 0))
    view, comparable, beyond = teacher_input(sequence, (7, 7), mapping, max_positions=100)
    assert view == TokenSequence((7, 7), (10, 12, 13, 10))
    assert comparable == [True, False, True, True, True]
    assert beyond == 0
    view, comparable, beyond = teacher_input(sequence, (7, 7), mapping, max_positions=4)
    assert view.response_ids == (10, 12)
    assert comparable == [True, False, True, False, False]
    assert beyond == 2


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_kl_to_the_teacher_is_that_of_whole_logits(pico, direction):
    student, dense = load_model(str(pico.student)), load_model(str(pico.teacher))
    teacher = Teacher(dense, student)
    policy = Policy(student.model)
    sequences = [TokenSequence((3, 5), (7, 9, 11)), TokenSequence((4,), (8, 6))]
    prompts = [(2, 9, 4), (5,)]
    batch = collate(sequences, student.pad_id)
    states = teacher.states(sequences, prompts)
    tau = torch.tensor([1.0, 1.5, 0.7, 2.0, 1.0])
    weight = torch.tensor([0.1, 0.2, 0.3, 0.0, 0.4])
    loss, per_token = policy(
        batch.input_ids,
        batch.attention_mask,
        batch.select,
        lambda h, w: teacher.kl(
            h, w, states, weight=weight, tau_teacher=tau, tau_student=tau, direction=direction
        ),
    )
    order = teacher.vocabulary.to_teacher  # (V,) a permutation: both have the same words
    expected = []
    for sequence, prompt in zip(sequences, prompts, strict=True):
        ids = torch.tensor([sequence.prompt_ids + sequence.response_ids])
        mine = student.model(input_ids=ids).logits[0, len(sequence.prompt_ids) - 1 : -1]
        response = order[torch.tensor(sequence.response_ids)]
        theirs = dense.model(input_ids=torch.cat([torch.tensor(prompt), response])[None]).logits[
            0, len(prompt) - 1 : -1
        ]
        for row in range(len(sequence.response_ids)):
            t = tau[len(expected)]
            p, q = (theirs[row, order] / t).log_softmax(-1), (mine[row] / t).log_softmax(-1)
            expected.append(
                (p.exp() * (p - q)).sum() if direction == "forward" else (q.exp() * (q - p)).sum()
            )
    stacked = torch.stack(expected)
    assert torch.allclose(per_token, stacked, atol=1e-5)
    assert torch.allclose(loss, (weight * stacked).sum(), atol=1e-5)
