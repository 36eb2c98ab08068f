"""What belongs together is found by digests, wherever it lies."""

import shutil

import pytest

from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import MANIFEST_NAME, Parent
from padd_stages.lib.options.runs import parse_runs
from padd_stages.report.runs import artifacts_in, find_runs


def names(artifacts):
    return sorted(artifact.path.name for artifact in artifacts)


def test_runs_and_what_was_measured_of_them(made):
    found = find_runs(parse_runs(made.words))
    assert list(found.methods) == ["grpo", "padd"]
    for method, runs in found.methods.items():
        assert [run.seed for run in runs] == [0, 1]
        for run in runs:
            assert run.student.path.name == f"{method}-{run.seed}"
            assert names(run.evaluations) == [f"{method}-{run.seed}"]
            assert run.experts.path == made.root / "experts" / f"{method}-{run.seed}"
    assert {state: names(found.states[state]) for state in found.states} == {
        "teacher": [],
        "base": ["base"],
        "stage1": ["stage1"],
    }
    assert found.models["teacher"][0].path == "hub/teacher"
    assert found.models["base"][0].path == "hub/student"
    assert names(found.origins) == ["clusters", "warmup"]


def test_an_evaluation_alone_leads_to_its_student(made):
    found = find_runs(parse_runs([f"padd={made.root}/eval/padd-1"]))
    (run,) = found.methods["padd"]
    assert run.student.path.name == "padd-1"
    assert names(found.origins) == ["clusters", "warmup"]


def test_a_whole_folder_is_one_method(made):
    found = find_runs(parse_runs([f"all={made.root}"]))
    assert names(run.student for run in found.methods["all"]) == ["grpo-0", "grpo-1", "padd-0", "padd-1"]
    assert names(found.states["stage1"]) == ["stage1"]


def test_a_student_that_is_gone_leaves_its_evaluation(build, tmp_path):
    made_of = Parent(kind="student", digest="gone", path=str(tmp_path / "gone"))
    build.evaluation(tmp_path / "e", made_of, 3)
    (run,) = find_runs(parse_runs([f"padd={tmp_path}/e"])).methods["padd"]
    assert (run.student, run.seed) == (None, 3)


def test_an_expert_report_alone_is_a_run_and_joins_the_evaluation_of_its_model(made, build, tmp_path):
    student = build.student(tmp_path / "gone", artifacts_in(made.root / "warmup")[0], 7)
    report = build.experts(tmp_path / "experts", student, 7)
    shutil.rmtree(student.path)
    (run,) = find_runs({"plain": [report.path]}).methods["plain"]
    assert (run.student, run.evaluations, run.experts.path) == (None, [], report.path)
    evaluated = build.evaluation(tmp_path / "eval", student.as_parent(), 7)
    (run,) = find_runs({"plain": [report.path, evaluated.path]}).methods["plain"]
    assert (names(run.evaluations), run.experts.path) == (["eval"], report.path)


def test_another_student_at_the_same_place_is_not_taken_for_it(made, build, tmp_path):
    shutil.copytree(made.root / "eval" / "padd-0", tmp_path / "e")
    stage1 = artifacts_in(made.root / "warmup")[0]
    other = build.student(tmp_path / "other", stage1, 5)
    found = find_runs(parse_runs([f"padd={tmp_path}/e,{other.path}"]))
    assert [run.student.path.name for run in found.methods["padd"]] == ["padd-0", "other"]
    assert [names(run.evaluations) for run in found.methods["padd"]] == [["e"], []]


def test_one_student_under_two_names_is_refused(made):
    with pytest.raises(PaddError, match="is a run of both 'a' and 'b'"):
        find_runs(parse_runs([f"a={made.root}/padd-0", f"b={made.root}/padd-0"]))


@pytest.mark.parametrize(("what", "sentence"), [("split", "nothing to report"), ("absent", "does not exist")])
def test_nothing_to_report(made, what, sentence):
    with pytest.raises(PaddError, match=sentence):
        find_runs(parse_runs([f"x={made.root}/{what}"]))


def test_of_what_was_measured_twice_the_newest_counts(made, build, tmp_path):
    trained = artifacts_in(made.root / "padd-0")[0]
    newer = build.experts(tmp_path / "newer", trained, 9)
    manifest = newer.manifest
    manifest.provenance.created = "2999-01-01T00:00:00+00:00"
    (newer.path / MANIFEST_NAME).write_text(manifest.model_dump_json())
    for words in (
        [newer.path, made.root / "experts" / "padd-0"],
        [made.root / "experts" / "padd-0", newer.path],
    ):
        (run,) = find_runs({"padd": words}).methods["padd"]
        assert run.experts.path == newer.path
        assert names(run.older_experts) == ["padd-0"]
