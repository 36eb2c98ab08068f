"""What `padd eval` prints."""

from padd_cli.console.evaluation_tables import show_evaluation


def numbers(accuracy: float, **other):
    plain = {"accuracy": accuracy, "interval": [accuracy - 0.1, accuracy + 0.1], "truncated": 0.25}
    return plain | {"subjects": {}, "levels": {}, "tokens": {"mean": 12.4}} | other


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│┃\n").split("│")]


def test_a_row_a_benchmark_and_their_average(capsys):
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
    show_evaluation(report)
    rows = [cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert rows == [
        ["math500", "7", "50.0", "40.0 to 60.0", "", "", "", "", "12", "25.0 %"],
        ["aime24", "3", "", "", "30.0 (k 4)", "20.0 to 40.0", "80.0", "35.0", "", "25.0 %"],
        ["average of the headlines", "", "40.0", "35.0 to 45.0", "", "", "", "", "", ""],
        ["math500", "algebra", "2", "50.0", "0.0 to 100.0"],
    ]
