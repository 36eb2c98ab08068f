"""What a comparison looks like as Markdown, CSV and a chart."""

import csv
import io
from dataclasses import replace
from itertools import combinations

import pytest

from padd_stages.compare.evaluations import Benchmark
from padd_stages.compare.figures import method_bars
from padd_stages.compare.methods import Comparison, Estimate, Row
from padd_stages.compare.view import long_csv, markdown
from padd_stages.lib.plots.style import save_figure


@pytest.fixture
def comparison():
    grpo = Row("GRPO", 3, {"math": Estimate(0.5, 0.4, 0.62)})
    padd = Row(
        "PADD | ours",
        3,
        {"math": Estimate(0.614, 0.582, 0.644), "aime": Estimate(0.1, 0.0, 0.3)},
        difference={"math": Estimate(0.114, -0.01, 0.2)},
        stage3="inactive",
    )
    paper = Row("PADD", 0, {"average": Estimate(0.802)})
    return Comparison(
        rows=[grpo, padd, paper],
        benchmarks={"math": Benchmark(500, "greedy"), "aime": Benchmark(30, "avg@32")},
        columns=["math", "aime", "average"],
        against="GRPO",
        notes=["a note."],
    )


def test_markdown(comparison):
    assert (
        markdown(comparison)
        == """accuracy, % (95 % interval over seeds and problems)

| method | seeds | math (greedy, n = 500) | aime (avg@32, n = 30) | average |
| --- | --- | --- | --- | --- |
| GRPO | 3 | 50.0 (40.0 to 62.0) | – | – |
| PADD \\| ours (Stage III inactive) | 3 | **61.4** (58.2 to 64.4) | 10.0 (0.0 to 30.0) | – |
| PADD (published) |  | – | – | 80.2 |

difference to GRPO, points (95 % interval, paired by problem)

| method | math (greedy, n = 500) |
| --- | --- |
| PADD \\| ours (Stage III inactive) | +11.4 (-1.0 to +20.0) |

* a note.
"""
    )


def test_csv_has_a_line_for_each_number(comparison):
    rows = list(csv.DictReader(io.StringIO(long_csv(comparison))))
    assert [(row["method"], row["column"]) for row in rows] == [
        ("GRPO", "math"),
        ("PADD | ours", "math"),
        ("PADD | ours", "aime"),
        ("PADD", "average"),
    ]
    expected = {
        "method": "PADD | ours",
        "published": "False",
        "seeds": "3",
        "stage3": "inactive",
        "column": "math",
        "problems": "500",
        "measure": "greedy",
        "accuracy": "0.614",
        "low": "0.582",
        "high": "0.644",
        "difference": "0.114",
        "difference_low": "-0.01",
        "difference_high": "0.2",
    }
    assert rows[1] == expected
    assert (rows[3]["published"], rows[3]["seeds"], rows[3]["low"]) == ("True", "", "")


class TestChart:
    def test_a_panel_a_column_with_bars_intervals_and_gaps(self, comparison):
        figure = method_bars(comparison)
        panels = [axis for axis in figure.axes if axis.get_visible()]
        assert [axis.get_title(loc="left") for axis in panels] == [
            "math\ngreedy, n = 500",
            "aime\navg@32, n = 30",
            "average",
        ]
        widths = [[bar.get_width() for bar in axis.patches] for axis in panels]
        assert widths == [pytest.approx([50, 61.4]), pytest.approx([10]), pytest.approx([80.2])]
        assert [[text.get_text() for text in axis.texts] for axis in panels] == [
            ["50.0", "61.4"],
            ["–", "10.0"],
            ["–", "–", "80.2"],
        ]
        ends = [end for line in panels[0].collections for end in line.get_segments()[0][:, 0]]
        assert ends == pytest.approx([40, 62, 58.2, 64.4])
        assert [bar.get_hatch() for axis in panels for bar in axis.patches] == [None, None, None, "////"]

    def test_published_rows_stand_where_they_have_a_number(self, comparison):
        first, _, last, _ = method_bars(comparison).axes
        labels = ["GRPO", "PADD | ours (Stage III inactive)", "PADD (published)"]
        assert [label.get_text() for label in first.get_yticklabels()] == labels[:2]
        assert [label.get_text() for label in last.get_yticklabels()] == labels

    def test_nothing_is_cut_off_and_no_panel_covers_another(self, comparison):
        names = ["minerva-math", "olympiadbench", "math500"]
        rows = [
            replace(row, accuracy=dict.fromkeys(names, Estimate(0.98, 0.9, 1.0))) for row in comparison.rows
        ]
        benchmarks = dict.fromkeys(names, Benchmark(5000, "avg@128"))
        figure = method_bars(replace(comparison, rows=rows, benchmarks=benchmarks, columns=names))
        figure.canvas.draw()
        panels = [axis for axis in figure.axes if axis.get_visible()]
        boxes = [axis.get_tightbbox() for axis in panels]
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
        for axis in panels:
            assert all(text.get_window_extent().x1 <= axis.bbox.x1 for text in axis.texts)

    def test_same_numbers_same_bytes(self, comparison, tmp_path):
        paths = [tmp_path / "a.png", tmp_path / "b.png"]
        for path in paths:
            save_figure(method_bars(comparison), path)
        assert paths[0].read_bytes() == paths[1].read_bytes()
