"""The keyword rules against labels."""

import pytest

from padd_stages.analyze_experts.keyword_accuracy import classifier_json
from padd_stages.lib.data.subdomains import SUBDOMAINS

AREA, GCD = "Find the area of the triangle.", "Find the gcd of 12 and 18."


def test_confusion_of_labels_and_rules():
    report = classifier_json(
        [(AREA, "geometry"), (AREA, "geometry"), (GCD, "algebra"), (GCD, None), (AREA, "other")]
    )
    assert (report["source"], report["labelled"], report["accuracy"]) == ("mixed", 4, 0.5)
    counts = report["confusion"]["counts"]
    row = {name: dict(zip(SUBDOMAINS, counts[i])) for i, name in enumerate(report["confusion"]["labels"])}
    assert row["geometry"]["geometry"] == 2
    assert row["algebra"]["number theory"] == row["other"]["geometry"] == 1
    assert sum(map(sum, counts)) == 4


@pytest.mark.parametrize(
    ("problems", "source", "accuracy"),
    [([(AREA, "geometry")], "labels", 1.0), ([(AREA, None)], "keywords", None), ([], "keywords", None)],
)
def test_where_subdomains_come_from(problems, source, accuracy):
    report = classifier_json(problems)
    assert (report["source"], report["accuracy"]) == (source, accuracy)
