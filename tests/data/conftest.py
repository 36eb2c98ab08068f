"""One grader for all tests of a module."""

from collections.abc import Iterator

import pytest

from padd_stages.data.grading import Grader


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=2, time_limit=20.0) as shared:
        yield shared
