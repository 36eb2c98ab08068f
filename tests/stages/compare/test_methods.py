"""From evaluations to the table: which problems meet, what is averaged, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from padd_artifacts.artifact import open_artifact
from padd_artifacts.errors import PaddError
from padd_stages.compare.evaluations import align, read_evaluations
from padd_stages.compare.methods import compare
from padd_stages.compare.published import load_published
from padd_stages.lib.measures.intervals import bootstrap_interval


def compared(folders, mode="headline"):
    return align(read_evaluations(folders, mode))


def row(comparison, name):
    return next(row for row in comparison.rows if row.name == name)


@pytest.fixture
def two(make_evaluation):
    """GRPO of two seeds, PADD of one, on two benchmarks."""
    make_evaluation("g0", {"math": [1, 0, 0, 1, 0], "aime": [[1, 0], [0, 0], [1, 1]]})
    make_evaluation("g1", {"math": [1, 1, 0, 1, 0], "aime": [[1, 1], [0, 0], [1, 1]]}, seed=1)
    last = make_evaluation("p0", {"math": [1, 1, 0, 1, 1], "aime": [[1, 0], [1, 0], [1, 1]]})
    return {"GRPO": [last.with_name("g0"), last.with_name("g1")], "PADD": [last]}


def test_means_are_over_seeds_and_problems_and_the_average_over_benchmarks(two):
    found = compare(compared(two))
    grpo = row(found, "GRPO")
    assert grpo.by_run["math"] == pytest.approx([2 / 5, 3 / 5])
    assert grpo.accuracy["math"].value == pytest.approx(1 / 2)
    assert grpo.accuracy["aime"].value == pytest.approx((1.5 / 3 + 2 / 3) / 2)
    assert grpo.accuracy["average"].value == pytest.approx((1 / 2 + 7 / 12) / 2)
    assert found.columns == ["math", "aime", "average"]
    assert [found.head(column) for column in found.columns] == [
        "math (greedy, n = 5)",
        "aime (avg@2, n = 3)",
        "average",
    ]
    assert found.best("math") == ["PADD"]


def test_one_seed_is_the_bootstrap_over_problems_alone(two, make_evaluation):
    scores = np.random.default_rng(0).integers(2, size=(2, 40)).tolist()
    folders = {
        name: [make_evaluation(name, {"math": given})] for name, given in zip("ab", scores, strict=True)
    }
    found = compare(compared(folders), against="b", seed=3)
    a = row(found, "a")
    assert (a.accuracy["math"].low, a.accuracy["math"].high) == bootstrap_interval(scores[0], seed=3)
    apart = a.difference["math"]
    by_problem = np.subtract(*scores)
    assert apart.value == pytest.approx(by_problem.mean())
    assert (apart.low, apart.high) == pytest.approx(bootstrap_interval(by_problem, seed=3))
    assert a.accuracy["average"] == a.accuracy["math"]


def test_differences_are_paired_by_problem(make_evaluation):
    """Problems differ a lot and every method alike: intervals of accuracies are wide, those of differences nothing."""
    easy = [1.0, 0.0] * 20
    less = [score - 0.25 for score in easy]
    make_evaluation("g0", {"math": less})
    make_evaluation("g1", {"math": less}, seed=1)
    last = make_evaluation("p0", {"math": easy})
    found = compare(
        compared({"GRPO": [last.with_name("g0"), last.with_name("g1")], "PADD": [last]}), against="GRPO"
    )
    padd = row(found, "PADD")
    assert padd.accuracy["math"].high - padd.accuracy["math"].low > 0.2
    apart = padd.difference["math"]
    assert (apart.value, apart.low, apart.high) == pytest.approx((0.25, 0.25, 0.25))
    assert row(found, "GRPO").difference == {}


def test_seeds_that_differ_widen_the_interval(make_evaluation):
    alike = [make_evaluation(f"a{i}", {"math": [1, 0] * 30}, seed=i) for i in range(3)]
    apart = [make_evaluation(f"b{i}", {"math": [1, i != 0, i == 2] * 20}, seed=i) for i in range(3)]
    alike_row, apart_row = (
        row(compare(compared({"x": runs})), "x").accuracy["math"] for runs in (alike, apart)
    )
    assert apart_row.high - apart_row.low > 1.5 * (alike_row.high - alike_row.low)


def test_other_rows_and_their_order_change_no_interval(two):
    forward, backward = compare(compared(two)), compare(compared(dict(reversed(two.items()))))
    alone = compare(compared({"GRPO": two["GRPO"]}))
    assert row(forward, "GRPO") == row(backward, "GRPO") == row(alone, "GRPO")


def test_a_missing_benchmark_leaves_a_gap_and_no_average(two, make_evaluation):
    short = make_evaluation("s0", {"math": [0, 0, 0, 1, 0]})
    found = compare(compared({**two, "short": [short]}), against="GRPO")
    assert row(found, "short").accuracy.keys() == {"math"} == row(found, "short").difference.keys()
    partly = compared({**two, "PADD": [*two["PADD"], short]})
    assert "PADD: aime is missing in 1 of 2 runs, so it is left out of the row." in partly.notes
    assert partly.methods[1].scores.keys() == {"math"}


def test_rows_of_another_order_meet_by_id(make_evaluation):
    first = make_evaluation("a", {"math": [1, 0, 0]})
    second = make_evaluation("b", {"math": [1, 0, 0]})
    text = (second / "responses.jsonl").read_text().splitlines(keepends=True)
    (second / "responses.jsonl").write_text("".join(reversed(text)))
    manifest = second / "manifest.json"
    with pytest.raises(PaddError, match="has changed"):
        open_artifact(second)
    manifest.write_text(json.dumps(resealed(second)))
    a, b = compared({"a": [first], "b": [second]}).methods
    np.testing.assert_array_equal(a.scores["math"], b.scores["math"])


def resealed(folder):
    """The manifest of an artifact whose responses have been edited."""
    from padd_artifacts.manifest import artifact_digest, read_manifest, sha256_file

    manifest = read_manifest(folder)
    manifest.files["responses.jsonl"].sha256 = sha256_file(folder / "responses.jsonl")
    return manifest.model_dump(mode="json") | {"digest": artifact_digest(manifest.key, manifest.files)}


def test_modes(make_evaluation):
    greedy = make_evaluation("a", {"math": [1, 0, 1]})
    sampled = make_evaluation("b", {"math": [[1, 0], [0, 0], [1, 1]]})
    with pytest.raises(PaddError, match=r"math is greedy in .*a and avg@2 in .*b"):
        compared({"a": [greedy], "b": [sampled]})
    found = compared({"a": [greedy], "b": [sampled]}, "sampled")
    assert [method.scores.keys() for method in found.methods] == [set(), {"math"}]
    with pytest.raises(PaddError, match="nothing to compare"):
        compared({"a": [greedy]}, "sampled")


@pytest.mark.parametrize(
    ("other", "prefix", "words"),
    [
        ([1, 0], "What is ", "1 only in the first, 0 only in the second"),
        ([1, 0, 1], "Find ", "another text or answer in 3 of 3"),
    ],
)
def test_other_problems_are_refused(make_evaluation, other, prefix, words):
    folders = {
        "a": [make_evaluation("a", {"math": [1, 0, 1]})],
        "b": [make_evaluation("b", {"math": other}, prefix=prefix)],
    }
    with pytest.raises(PaddError, match=words):
        compared(folders)


def test_the_same_run_twice_is_refused(make_evaluation, make_student):
    folder, copy = (
        make_evaluation(name, {"math": [1, 0, 1]}, model=make_student(f"of {name}")) for name in ("a", "b")
    )
    assert len(compared({"x": [folder, copy]}).methods) == 1
    shutil.copytree(folder, folder.with_name("copy"))
    for folders in ({"x": [folder, folder]}, {"x": [folder], "y": [folder.with_name("copy")]}):
        with pytest.raises(PaddError, match="are the same evaluation"):
            compared(folders)


def test_seeds_of_the_sampling_alone_are_noted(make_evaluation, make_student):
    student = make_student("student")
    runs = [make_evaluation(f"a{seed}", {"math": [1, 0]}, seed=seed, model=student) for seed in (0, 1)]
    (note,) = compared({"a": runs}).notes
    assert note.startswith("a: several runs evaluate one model")
    assert compared({"a": runs[:1], "b": runs[1:]}).notes == []


def test_another_way_of_asking_is_noted(make_evaluation):
    scores = {"math": [1, 0], "aime": [[1, 0]]}
    first = make_evaluation("a", scores, temperature=0.6, max_new_tokens=3000, limit=2)
    longer = make_evaluation("b", scores, temperature=1.0, max_new_tokens=64)
    assert compared({"a": [first], "b": [longer]}).notes == [
        "math was asked with different max_new_tokens, which may be what differs.",
        "aime was asked with different temperature, max_new_tokens, which may be what differs.",
    ]
    spelled_out = {"temperature": 0.6, "max_new_tokens": 3000}  # what a benchmark's protocol came to
    same = make_evaluation("c", scores, protocol=spelled_out, temperature=1.0, max_new_tokens=64)
    assert compared({"a": [first], "c": [same]}).notes == []


def test_stage3_labels_its_row(make_evaluation, make_student):
    states = ["active", "inactive", "inactive"]
    runs = [
        make_evaluation(f"r{i}", {"math": [1, i]}, model=make_student(f"s{i}", stage3=state))
        for i, state in enumerate(states)
    ]
    folders = {"some": runs[:2], "all": runs[2:]}
    assert [row.label for row in compare(compared(folders)).rows] == [
        "some (Stage III inactive in 1 of 2 runs)",
        "all (Stage III inactive)",
    ]
    make_student("s2", stage3="inactive", seed=1)  # not the one that was evaluated
    assert compare(compared(folders)).rows[1].label == "all"


class TestPublished:
    def test_rows_stand_below_are_marked_and_never_best(self, two):
        found = compare(compared(two), published=load_published("ablation"))
        ours, theirs = found.rows[:2], found.rows[2:]
        assert [row.published for row in ours] == [False, False]
        assert all(row.published and row.label.endswith(" (published)") for row in theirs)
        assert theirs[0].accuracy["aime24"].value == pytest.approx(0.83)
        assert found.columns == ["math", "aime", "aime24", "minerva-math", "olympiadbench", "average"]
        assert found.best("average") == ["PADD"]
        assert found.best("aime24") == []
        assert "not measured here" in found.notes[-1]
        assert "over math, aime" in found.notes[-1]

    def test_they_are_those_of_the_method_page(self):
        page = (Path(__file__).parents[3] / "docs" / "METHOD.md").read_text(encoding="utf-8")
        lines = page.split("## 7. ")[1].split("## 8. ")[0].splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:2] == "| "]
        tables = {name: load_published(name).rows for name in ("qwen", "deepseek", "ablation")}
        head, *rows = cells
        assert head[5:8] == ["AIME24", "Minerva", "Olympiad"]
        columns = ("aime24", "minerva-math", "olympiadbench", "average")
        for method, qwen, deepseek, _, ablation, *percents in rows:
            assert tables["qwen"].pop(method) == {"average": float(qwen)}
            assert tables["deepseek"].pop(method) == {"average": float(deepseek)}
            if ablation:
                assert tables["ablation"].pop(ablation) == dict(
                    zip(columns, map(float, percents), strict=True)
                )
        assert tables == {"qwen": {}, "deepseek": {}, "ablation": {}}
