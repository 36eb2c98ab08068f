"""The teacher's clusters where it predicts a student's tokens: one forward, padded, in another vocabulary."""

import pytest
import torch

from padd_stages.lib.data.sequences import TokenSequence
from padd_stages.lib.models.expert_clusters import ExpertClusters
from padd_stages.lib.models.ffn import FFNActivations
from padd_stages.lib.models.loading import load_model
from padd_stages.lib.models.teacher import Teacher

EXPERTS, WIDTH = 5, 40
# Two MoE layers that read one teacher layer, and one that reads another; clusters of sizes that differ.
LAYERS = (0, 2, 0)
SEQUENCES = [TokenSequence((3, 5), (7, 9, 11, 8)), TokenSequence((4,), (8, 6, 13))]
PROMPTS = [(2, 9, 4), (5,)]
UNKNOWN = 9  # a word of the student that the teacher is made not to know


@pytest.fixture
def clusters() -> ExpertClusters:
    g = torch.Generator().manual_seed(1)
    assignments = {layer: torch.randint(0, EXPERTS, (WIDTH,), generator=g).int() for layer in set(LAYERS)}
    orders = torch.stack([torch.randperm(EXPERTS, generator=g) for _ in LAYERS])
    return ExpertClusters(LAYERS, assignments, orders)


def slow_activations(teacher: Teacher, clusters: ExpertClusters) -> tuple[torch.Tensor, list[bool]]:
    """Sequence by sequence, token by token, neuron by neuron; (L, C, N)."""
    tokens, comparable = [], []
    for sequence, prompt in zip(SEQUENCES, PROMPTS, strict=True):
        known = [word for word in sequence.response_ids if word != UNKNOWN]
        ids = [*prompt, *(int(teacher.vocabulary.to_teacher[word]) for word in known)]
        comparable += [word != UNKNOWN for word in sequence.response_ids]
        model = teacher.language_model.model
        with torch.no_grad(), FFNActivations.attach(model, [0, 1, 2]) as ffn:
            model(input_ids=torch.tensor([ids]))
        for place in range(len(prompt) - 1, len(ids) - 1):
            layers = []
            for m, layer in enumerate(LAYERS):
                neurons = ffn.activations(layer)[place]
                means = [
                    neurons[clusters.assignments[layer] == clusters.expert_to_cluster[m, j]].mean()
                    for j in range(EXPERTS)
                ]
                layers.append(torch.stack(means))
            tokens.append(torch.stack(layers))
    return torch.stack(tokens, dim=1), comparable


def test_clusters_are_read_where_the_teacher_predicts_the_tokens_that_both_have(pico, clusters):
    teacher = Teacher(load_model(str(pico.teacher)), load_model(str(pico.student)))
    teacher.vocabulary.to_teacher[UNKNOWN] = -1
    forwards = []
    teacher.language_model.model.base_model.register_forward_hook(lambda *_: forwards.append(1))
    states = teacher.states(SEQUENCES, PROMPTS, clusters)
    assert len(forwards) == 1
    wanted, comparable = slow_activations(teacher, clusters)
    assert states.comparable.tolist() == comparable
    assert states.activations is not None
    torch.testing.assert_close(states.activations, wanted)
    plain = teacher.states(SEQUENCES, PROMPTS)
    assert plain.activations is None
    assert torch.equal(plain.hidden, states.hidden)


def test_positions_beyond_the_limit_are_left_out(pico, clusters):
    teacher = Teacher(load_model(str(pico.teacher)), load_model(str(pico.student)))
    whole = teacher.states(SEQUENCES, PROMPTS, clusters)
    # Room for two of the first response's four tokens and for all of the second's.
    teacher.language_model.model.config.max_position_embeddings = 5
    cut = teacher.states(SEQUENCES, PROMPTS, clusters)
    assert cut.comparable.tolist() == [True, True, False, False, True, True, True]
    assert cut.activations is not None
    assert whole.activations is not None
    torch.testing.assert_close(cut.activations, whole.activations[:, cut.comparable])
