"""The report of a made-up comparison: what is in it, that it stands alone, and what is refused."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from padd_artifacts.artifact import open_artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.manifest import Parent
from padd_stages.analyze_experts.figures import Panel, load_figure
from padd_stages.compare.evaluations import align, read_evaluations
from padd_stages.compare.methods import compare
from padd_stages.lib.options.runs import parse_runs
from padd_stages.lib.plots.style import COLOURS, INK
from padd_stages.lib.plots.table import MISSING, Cell, duration
from padd_stages.report import stage as write_report
from padd_stages.report.html import sort_value, typeset
from padd_stages.report.options import ReportInputs, ReportOptions
from padd_stages.report.runs import find_runs
from padd_stages.report.sections import page_of
from padd_stages.report.svg import inline_svg
from padd_stages.report.training import read_training

VOID = {"meta", "link", "input", "line", "path", "image", "use", "rect", "br"}
HOSTILE = "</script><b>&\"'"
BASE = Parent(kind="model", digest="base student", path="hub/student")


class Reader(HTMLParser):
    """Collects ids, links, texts by tag, and tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.open, self.wrong = [], [], [], []
        self.cells, self.tokens, self.headings = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("href", "src", "xlink:href", "action") if name in given]
        if tag not in VOID:
            self.open.append((tag, given.get("class") or ""))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if self.open[-1][0] != tag:
            self.wrong.append((tag, self.open[-1]))
        self.open.pop()

    def handle_data(self, data):
        tag, kind = self.open[-1] if self.open else ("", "")
        if tag in ("td", "th"):
            self.cells.append(data)
        if tag in ("h1", "h2"):
            self.headings.append(data)
        if kind.startswith("token"):
            self.tokens.append(data)


@pytest.fixture(scope="module")
def report(made, write_page, tmp_path_factory):
    return write_page(made.words, tmp_path_factory.mktemp("report") / "report")


@pytest.fixture(scope="module")
def html(report):
    return report.file("index.html").read_text(encoding="utf-8")


def test_the_artifact_is_whole(report):
    artifact = open_artifact(report.path, "report")
    figures = {
        "accuracy-greedy", "accuracy-sampled", "router-shift", "router-shift-ecdf", "router-shift-kl",
        "load-max-vio", "load-load-entropy", "specialisation", "nmi", "load", "bias", "training",
    }  # fmt: skip
    files = {f"figures/{name}.png" for name in figures} | {"index.html", "report.json", "provenance.json"}
    assert set(artifact.manifest.files) == files
    assert len(artifact.manifest.parents) == 2 * 2 * 3 + 2 + 2
    for name in figures:
        with Image.open(artifact.file(f"figures/{name}.png")) as image:
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn


def test_the_page_needs_nothing_but_itself(html):
    reader = Reader(html)
    assert (reader.open, reader.wrong) == ([], [])
    assert [name for name in reader.ids if reader.ids.count(name) > 1] == []
    for link in reader.links:
        assert link.startswith(("#", "data:")), link
        assert not link.startswith("#") or link[1:] in reader.ids
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(reader.ids)
    assert "@import" not in html
    assert "://" not in html.replace("http://www.w3.org/", "")
    assert INK not in html.split("</style>")[1]  # axes and texts take the page's own colour


def test_it_opens_with_the_result_and_goes_on_in_order(html):
    headings = Reader(html).headings
    assert headings == ["grpo and padd", "Result", "Stage I", "Training", "Routing", "Samples", "Provenance"]
    assert html.index("Sampled accuracy of padd") < html.index("<h2>Result")


def test_numbers_are_those_of_compare(made, report, html):
    rows = {name: [made.root / "eval" / f"{name}-{seed}" for seed in (0, 1)] for name in ("grpo", "padd")}
    expected = compare(align(read_evaluations(rows, "sampled")), against="grpo")
    shown = {row["name"]: row for row in report.report["result"]["sampled"]["rows"]}
    assert list(shown) == ["base", "Stage I", "grpo", "padd"]
    for row in expected.rows:
        assert shown[row.name]["accuracy"]["D_D"]["value"] == row.accuracy["d"].value
        assert shown[row.name]["by_run"]["D_D"] == row.by_run["d"]
    difference = expected.rows[1].difference["d"].value
    assert difference != 0
    assert shown["padd"]["difference"]["D_D"]["value"] == difference
    assert typeset(f"{100 * difference:+.1f}") in [cell.strip() for cell in Reader(html).cells]


def test_training_numbers_are_means_over_seeds(made, report):
    rewards = []
    for seed in (0, 1):
        rows = open_artifact(made.root / f"padd-{seed}").jsonl("metrics.jsonl")
        rewards.append([row["reward"] for row in rows])
    curve = report.report["training"]["curves"]["reward"]["padd"]
    assert curve["mean"] == pytest.approx(np.mean(rewards, axis=0).tolist())
    assert curve["seeds"] == 2
    assert report.report["training"]["router_shift"]["padd"]["steps"] == [2.0, 4.0]
    kl, shift = read_training(find_runs(parse_runs(made.words))).shift_at_kl["padd"]
    assert len(kl) == len(shift) == 2 * 2
    rows = open_artifact(made.root / "padd-1").jsonl("metrics.jsonl")
    assert kl[-1] == rows[3]["policy_kl"]  # of step 4, the last that was measured
    assert set(report.report["training"]["router_shift_last"]["grpo"]["quantiles"]) == {"0.5", "0.95"}


def test_what_the_expert_reports_say(html):
    assert "Of 70 labels the keyword rules find 62.5\u202f%." in html
    assert "0, 3 → 1, 2 → 0, 4" in Reader(html).cells
    assert [cell.strip() for cell in Reader(html).cells].count(
        "31"
    ) == 1  # the keyword rules' confusion matrix
    assert "80.0" in [cell.strip() for cell in Reader(html).cells]  # path_consistency


def test_samples_are_shown_as_they_are(html):
    reader = Reader(html)
    assert reader.tokens[:2] == ["Find ", HOSTILE]
    assert HOSTILE not in html


def test_the_same_again_wherever_the_folders_are(made, report, tmp_path, write_page):
    moved = shutil.copytree(made.root, tmp_path / "moved")
    words = [word.replace(str(made.root), str(moved)) for word in made.words]
    assert write_page(words, tmp_path / "other").manifest.digest == report.manifest.digest
    half = write_report.plan(ReportInputs(runs=made.words[2:]), ReportOptions())
    assert half.key != report.manifest.key


def test_an_evaluation_alone_makes_a_page(made, build, tmp_path, write_page):
    from padd_artifacts.manifest import Parent

    evaluation = build.evaluation(tmp_path / "e", Parent(kind="model", digest="somebody's"), 3)
    artifact = write_page([f"other={evaluation.path}"], tmp_path / "page")
    assert Reader(artifact.file("index.html").read_text()).headings == ["other", "Result", "Provenance"]


def test_one_run_is_compared_with_what_it_came_from(made, page_data_of):
    data = page_data_of([made.words[2], made.words[-1]])
    assert data.as_json()["result"]["greedy"]["against"] == "base"
    assert page_of(data).title == "hub/student, distilled from hub/teacher"


def test_stage_1_alone_makes_a_page(made, page_data_of):
    page = page_of(page_data_of([f"padd={made.root}/warmup"]))
    assert [section.key for section in page.sections] == ["stage1"]
    assert [table.columns[0] for table in page.sections[0].tables] == [
        "teacher layer",
        "MoE layer",
        "measure",
    ]


def test_runs_of_other_options_are_not_seeds_of_one_method(made, page_data_of):
    notes = page_data_of([f"mixed={made.root}/grpo-0,{made.root}/padd-1"]).notes()
    assert any("differ in kd_weight" in note for note in notes)


def test_refusals_leave_nothing_behind(made, tmp_path, write_page):
    copy = shutil.copytree(made.root, tmp_path / "copy")
    (copy / "padd-0" / "metrics.jsonl").write_text("{}\n")
    (copy / "warmup" / "report.json").write_text("{}\n")
    cases = [
        ([f"padd={copy}/padd-0"], {}, PaddError, "metrics.jsonl has changed"),
        ([f"padd={copy}/padd-1,{copy}/warmup"], {}, PaddError, "warmup/report.json has changed"),
        (made.words, {"against": "gspo"}, UsageError, "no method here"),
        ([f"padd={copy}/split"], {}, PaddError, "nothing to report"),
        (["=x"], {}, UsageError, "not NAME=DIR"),
    ]
    for words, options, error, sentence in cases:
        with pytest.raises(error, match=sentence):
            write_page(words, tmp_path / "out", **options)
        assert not list(tmp_path.glob("out*"))


def test_plan_reads_manifests_alone(made, tmp_path):
    copy = shutil.copytree(made.root, tmp_path / "copy")
    for path in copy.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            path.unlink()
    plan = write_report.plan(ReportInputs(runs=[f"padd={copy}/padd-0"]), ReportOptions())
    assert plan.sizes == {"padd": 1}
    whole = write_report.plan(ReportInputs(runs=[f"padd={made.root}/padd-0"]), ReportOptions())
    assert plan.key == whole.key
    assert list(parse_runs([f"padd={copy}/padd-0"])) == ["padd"]


def test_figures_follow_the_page(tmp_path):
    figure = load_figure([Panel("a < b", np.array([[0.75, 0.25]]))], [0])
    text = inline_svg(figure, "x", 'say "no" & <go>')
    assert text == inline_svg(
        load_figure([Panel("a < b", np.array([[0.75, 0.25]]))], [0]), "x", 'say "no" & <go>'
    )
    assert text.startswith('<svg role="img" aria-label="say &quot;no&quot; &amp; &lt;go>" viewBox=')
    assert "currentColor" in text
    assert "var(--method-0)" in text
    assert COLOURS[0].lower() not in text
    assert "a &lt; b</text>" in text
    assert all(name.startswith("x-") for name in re.findall(r'id="([^"]+)"', text))


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (Cell("1,063"), 1063.0),
        (Cell("-7.0"), -7.0),
        (Cell("+2.2"), 2.2),
        (Cell("1e-06"), 1e-6),
        (Cell("8 x 4"), 8.0),
        (Cell("4 min 2 s", order=242.0), 242.0),
        (Cell("12e45678"), None),
        (Cell("2025-11-22 10:00"), None),
        (Cell(MISSING), None),
        (Cell("grpo"), None),
    ],
)
def test_cells_sort_as_numbers(cell, value):
    assert sort_value(cell) == value


def test_words():
    assert typeset("-0.9 to grpo-0, 95 %") == "−0.9 to grpo-0, 95\u202f%"
    assert [duration(s) for s in (0.029, 48.4, 242, 11100)] == ["0.029 s", "48 s", "4 min 2 s", "3 h 5 min"]


def test_json_holds_no_nan(report):
    json.loads(report.file("report.json").read_text(), parse_constant=pytest.fail)
