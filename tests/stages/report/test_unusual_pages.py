"""Pages of runs that are not as usual: measured twice or in two ways, called oddly, without a student."""

import re
import shutil

import pytest

from padd_artifacts.artifact import open_artifact
from padd_artifacts.errors import UsageError
from padd_stages.compare import view as method_tables
from padd_stages.lib.plots.style import legend_columns
from padd_stages.report.runs import artifacts_in
from padd_stages.report.sections import page_of
from padd_stages.report.sentences import lead
from padd_stages.report.tables import specialisation_table


def test_agreement_of_two_kinds_is_no_column(made, page_data_of):
    data = page_data_of(made.words)
    for reports, measure in zip(data.routing.reports.values(), ("over tokens", "over subdomains")):
        for report in reports:
            report.report["models"]["student"]["cluster_agreement"] = {"measure": measure, "correlation": 0.1}
    assert "agreement with clusters" not in specialisation_table(data.routing).columns
    assert any("in two ways" in note for note in data.notes())
    del data.routing.reports["padd"]
    assert "agreement with clusters" in specialisation_table(data.routing).columns


def test_what_was_measured_twice_is_said(made, build, tmp_path, page_data_of):
    trained = open_artifact(made.root / "padd-0", "student")
    build.evaluation(tmp_path / "again", trained.as_parent(), 99)
    build.experts(tmp_path / "experts", trained, 9)
    notes = page_data_of([made.words[2], f"padd={tmp_path}/again,{tmp_path}/experts"]).notes()
    assert any("two evaluations of one student on D_D" in note for note in notes)
    assert any("of 2 expert reports the newest" in note for note in notes)


def test_a_trained_student_is_not_called_like_a_state(made, tmp_path, write_page):
    with pytest.raises(UsageError, match="a trained student is called 'base'"):
        write_page([f"base={made.root}/padd-0"], tmp_path / "out")


def test_names_that_look_like_formulas_are_text(made, tmp_path, write_page):
    words = [word.replace("padd=", r"a $\nothing$ b=") for word in made.words]
    page = write_page(words, tmp_path / "out").file("index.html").read_text()
    assert re.search(r"a \$\\nothing\$ b</text>", page)


def test_a_legend_of_long_names_has_few_columns():
    assert [legend_columns([name] * 5) for name in ("padd", "x" * 28, "x" * 200)] == [4, 1, 1]
    assert legend_columns(["a", "b"]) == 2


def test_the_lead_speaks_of_a_benchmark_where_there_is_no_average(made, build, tmp_path, page_data_of):
    words = [f"grpo={made.root}/grpo-0,{made.root}/eval/grpo-0"]
    for name, benchmark in (("base", "d"), ("padd", "math")):
        of = build.base if name == "base" else open_artifact(made.root / "padd-0", "student").as_parent()
        build.evaluation(tmp_path / name, of, 3, benchmark=benchmark)
        words.append(f"{name}={tmp_path}/{name}")
    data = page_data_of(words)
    assert lead(data).startswith("Greedy accuracy of padd on math: ")
    titles = [table.title for section in page_of(data).sections for table in section.tables_after]
    assert "Greedy accuracy, %" in titles
    assert data.results.comparisons["greedy"].columns == ["D_D", "math"]


def test_no_table_of_differences_without_one(made, build, tmp_path, page_data_of):
    """A method's evaluation and the base's that share no benchmark."""
    build.evaluation(tmp_path / "base", build.base, 3, benchmark="math")
    data = page_data_of([f"padd={made.root}/padd-0,{made.root}/eval/padd-0", f"base={tmp_path}/base"])
    (accuracy,) = method_tables.tables(data.results.comparisons["greedy"])
    assert accuracy.title.startswith("accuracy")


def test_a_page_of_a_model_that_padd_did_not_train(made, build, tmp_path, write_page):
    student = build.student(tmp_path / "gone", artifacts_in(made.root / "warmup")[0], 7)
    report = build.experts(tmp_path / "experts", student, 7)
    shutil.rmtree(student.path)
    artifact = write_page([f"Other={report.path}"], tmp_path / "page")
    html = (artifact.path / "index.html").read_text()
    assert "NMI of expert and subdomain" in html.split("<nav")[0]
    assert 'id="routing"' in html
    assert 'id="training"' not in html
