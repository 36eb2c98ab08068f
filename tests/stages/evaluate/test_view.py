"""The tables of an evaluation."""

from padd_stages.evaluate.view import tables
from padd_stages.lib.plots.table import Cell


def numbers(accuracy: float, **other):
    plain = {"accuracy": accuracy, "interval": [accuracy - 0.1, accuracy + 0.1], "truncated": 0.25}
    return plain | {"subjects": {}, "levels": {}, "tokens": {"mean": 12.4}} | other


def test_a_row_a_benchmark_and_their_average():
    subjects = {"algebra": {"problems": 2, "accuracy": 0.5, "interval": [0.0, 1.0]}}
    sampled = numbers(0.3, samples=4, pass_at_k={"1": 0.3, "2": 0.5, "4": 0.8}, maj_at_k=0.35, tokens=None)
    report = {
        "benchmarks": {
            "math500": {"problems": 7, "headline": "greedy", "greedy": numbers(0.5, subjects=subjects)},
            "aime24": {"problems": 3, "headline": "sampled", "sampled": sampled},
        },
        "average": 0.4,
        "average_interval": [0.35, 0.45],
    }
    accuracies, subjects = tables(report)
    none = Cell("–")
    measures = ["greedy", "avg@k", "pass@k", "maj@k", "mean tokens", "truncated, %", "headline"]
    assert accuracies.columns == ["benchmark", "problems", *measures]
    half, third = Cell("50.0", "40.0 to 60.0"), Cell("30.0", "20.0 to 40.0")
    sampled = [Cell("30.0 (k 4)", "20.0 to 40.0"), Cell("80.0"), Cell("35.0")]
    assert accuracies.rows == [
        [Cell("math500"), Cell("7"), half, none, none, none, Cell("12"), Cell("25.0"), half],
        [Cell("aime24"), Cell("3"), none, *sampled, none, Cell("25.0"), third],
        [Cell("average of the headlines"), *[none] * 7, Cell("40.0", "35.0 to 45.0")],
    ]
    assert subjects.columns == ["benchmark", "subject", "problems", "accuracy"]
    assert subjects.rows == [[Cell("math500"), Cell("algebra"), Cell("2"), Cell("50.0", "0.0 to 100.0")]]
