"""What is shipped is whole, small, loads like anyone's models, and is as good as its manifest says."""

import json
import random
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM, Qwen3MoeForCausalLM

from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import sha256_file
from padd_stages.lib.models.loading import load_tokenizer
from padd_stages.toy.measuring import MAX_NEW_TOKENS, accuracy, expert_loads, parameter_counts, respond
from padd_stages.toy.models import STUDENT_SIZES, TEACHER_SIZES
from padd_stages.toy.packing import MANIFEST, MODELS, WEIGHTS, pack
from padd_stages.toy.problems import generate
from padd_stages.toy.tokenizer import build_tokenizer
from padd_stages.toy.unpack import DEFAULT_PROBLEMS, shipped_manifest, unpack

HELD_OUT = random.Random(1).sample(
    generate(DEFAULT_PROBLEMS, seed=0), 350
)  # of the problems that `unpack` writes


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    unpack(folder, problems=70, seed=1)
    return folder


@pytest.fixture(scope="module")
def loaded(unpacked):
    return {
        name: (
            AutoModelForCausalLM.from_pretrained(unpacked / name),
            load_tokenizer(str(unpacked / name)),
        )
        for name in MODELS
    }


def test_shipped_files_are_those_of_the_manifest_and_small():
    files = shipped_manifest()["files"]
    found = {path.relative_to(WEIGHTS).as_posix() for path in WEIGHTS.rglob("*") if path.is_file()}
    assert found == {*files, MANIFEST}
    assert {name: (WEIGHTS / name).stat().st_size for name in files} == {
        name: e["size"] for name, e in files.items()
    }
    assert sum(entry["size"] for entry in files.values()) < 6_000_000


@pytest.mark.parametrize("damage", ["changed", "missing", "no manifest"])
def test_damaged_weights_are_refused(tmp_path, damage):
    weights = tmp_path / "weights"
    shutil.copytree(WEIGHTS, weights)
    victim = weights / ("student/config.json" if damage != "no manifest" else MANIFEST)
    if damage == "changed":
        victim.write_text(victim.read_text() + " ")
    else:
        victim.unlink()
    with pytest.raises(PaddError, match="install padd again") as refusal:
        shipped_manifest(weights)
    assert victim.name in str(refusal.value)
    if damage == "changed":
        assert sha256_file(victim) in str(refusal.value)


def test_unpacked_problems_are_the_generators(unpacked):
    rows = [json.loads(line) for line in (unpacked / "problems.jsonl").read_text().splitlines()]
    assert rows == generate(70, seed=1)


def test_unpacked_problems_were_not_seen_in_pretraining(unpacked):
    report = shipped_manifest()["toy"]["pretraining"]
    seen = {row["problem"] for row in generate(report["problems"], report["seed"], report["pool"])}
    rows = [json.loads(line) for line in (unpacked / "problems.jsonl").read_text().splitlines()]
    assert not seen & {row["problem"] for row in rows}
    assert len(seen) == report["problems"]


def test_models_load_as_themselves_in_float32(loaded):
    teacher, student = loaded["teacher"][0], loaded["student"][0]
    assert isinstance(teacher, Qwen2ForCausalLM)
    assert isinstance(student, Qwen3MoeForCausalLM)
    assert {tensor.dtype for model, _ in loaded.values() for tensor in model.parameters()} == {torch.float32}
    assert {name: getattr(teacher.config, name) for name in TEACHER_SIZES} == TEACHER_SIZES
    assert {name: getattr(student.config, name) for name in STUDENT_SIZES} == STUDENT_SIZES
    assert student.config.norm_topk_prob
    assert student.config.router_aux_loss_coef == 0.0


def test_no_two_sizes_agree_by_accident():
    vocabulary = len(build_tokenizer(1))
    head = TEACHER_SIZES["hidden_size"] // TEACHER_SIZES["num_attention_heads"]
    teacher = [128, 512, head * TEACHER_SIZES["num_key_value_heads"], vocabulary]
    heads = STUDENT_SIZES["num_attention_heads"] * STUDENT_SIZES["head_dim"]
    keys = STUDENT_SIZES["num_key_value_heads"] * STUDENT_SIZES["head_dim"]
    student = [STUDENT_SIZES["hidden_size"], STUDENT_SIZES["moe_intermediate_size"], heads, keys]
    assert len({*teacher, *student}) == len(teacher) + len(student)
    assert TEACHER_SIZES["num_hidden_layers"] != STUDENT_SIZES["num_hidden_layers"]
    assert TEACHER_SIZES["intermediate_size"] % STUDENT_SIZES["num_experts"] == 0


def test_parameters_are_as_reported(loaded):
    report = shipped_manifest()["toy"]
    for name, (model, _) in loaded.items():
        assert parameter_counts(model) == report[name]["parameters"]


def test_vocabularies_agree_in_tokens_and_differ_in_order(loaded):
    teacher, student = (loaded[name][1] for name in MODELS)
    assert set(teacher.get_vocab()) == set(student.get_vocab())
    assert teacher.get_vocab() != student.get_vocab()
    for model, tokenizer in loaded.values():
        config = model.generation_config
        assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
        assert model.config.vocab_size == len(tokenizer)


@pytest.mark.parametrize(("name", "order"), [("teacher", 1), ("student", 2)])
def test_loaded_tokenizers_cut_text_as_in_pretraining(loaded, name, order):
    """AutoTokenizer alone cuts a qwen2 folder's text as Qwen does, and the teacher then solves one problem in 100."""
    tokenizer, original = loaded[name][1], build_tokenizer(order)
    for row in HELD_OUT:
        text = row["problem"] + " " + row["solution"]
        assert tokenizer(text).input_ids == original(text).input_ids
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_teacher_solves_held_out_problems_and_stops(loaded):
    model, tokenizer = loaded["teacher"]
    assert accuracy(model, tokenizer, HELD_OUT)["all"] > 0.9
    responses = respond(model, tokenizer, [row["problem"] for row in HELD_OUT[:70]])
    assert max(len(tokenizer(response).input_ids) for response in responses) < MAX_NEW_TOKENS
    assert sum(response == row["solution"] for response, row in zip(responses, HELD_OUT, strict=False)) > 60


def test_student_is_half_way(loaded):
    model, tokenizer = loaded["student"]
    assert 0.58 <= accuracy(model, tokenizer, HELD_OUT)["all"] <= 0.82
    assert 0.32 <= accuracy(model, tokenizer, HELD_OUT, sampled=True)["all"] <= 0.58


def test_no_expert_of_the_student_is_dead(loaded):
    model, tokenizer = loaded["student"]
    loads = expert_loads(model, tokenizer, HELD_OUT)
    assert min(min(layer) for layer in loads) > 0.005  # 0.125 is balance


def test_packing_and_unpacking_loses_nothing(unpacked, tmp_path):
    (tmp_path / "built").mkdir()
    for name in MODELS:
        shutil.copytree(unpacked / name, tmp_path / "built" / name)
    (tmp_path / "built" / "toy.json").write_text(json.dumps(shipped_manifest()["toy"]))
    pack(tmp_path / "built", tmp_path / "weights")
    assert shipped_manifest(tmp_path / "weights") == shipped_manifest()
