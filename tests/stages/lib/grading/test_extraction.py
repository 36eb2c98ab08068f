"""Taking answers out of responses, and golds into shape."""

import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from padd_artifacts.errors import PaddError
from padd_stages.lib.grading.extraction import (
    find_boxes,
    gold_answers,
    last_boxed,
    strip_thinking,
    unwrap,
)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\\boxed{7}", "7"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\fbox{5}}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a \} b}", r"a \} b"),
        (r"\boxed{$5$}", "5"),
        (r"\boxed{ 5 }", "5"),
        (r"a stray { brace, \boxed{5}", "5"),
        (r"a stray } brace, \boxed{5} }", "5"),
        (r"\boxed{x = \boxed{3} + 1}", r"x = \boxed{3} + 1"),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed{3} and then, at last, \boxed{4", None),
        (r"\boxed{4 and then \boxed{3}", "3"),
        (r"\boxed{3} \boxed{}", None),
        (r"\boxed{  }", None),
        ("no box: 42", None),
        (r"boxed{42}", None),
        ("", None),
        (r"<think>\boxed{1}</think> \boxed{2}", "2"),
        (r"<think>\boxed{1}</think> I give up", None),
        (r"<think>\boxed{1}", None),
        (r"\boxed{1} was tried</think> so \boxed{2}", "2"),
        (r"\boxed{2}<think>hm, \boxed{1}", "2"),
    ],
)
def test_last_boxed(response: str, answer: str | None) -> None:
    assert last_boxed(response) == answer


def test_strip_thinking_keeps_what_stands_outside() -> None:
    assert strip_thinking("a<think>b</think>c<think>d</think>e<think>f") == "ace"
    assert strip_thinking("opened in the prompt</think>c") == "c"


def test_find_boxes_gives_positions() -> None:
    text = r"x \boxed{a{b}} y \fbox{c}"
    boxes, unclosed = find_boxes(text)
    assert [text[box.start : box.end] for box in boxes] == [r"\boxed{a{b}}", r"\fbox{c}"]
    assert [text[box.inside : box.end - 1] for box in boxes] == ["a{b}", "c"]
    assert not unclosed


balanced = st.recursive(
    st.text("ab1 .,+-", max_size=5),
    lambda inner: st.one_of(
        st.builds("{{{}}}".format, inner),
        st.builds("{}{}".format, inner, inner),
        st.builds(r"\{{{}\}}".format, inner),
    ),
    max_leaves=8,
)


@given(balanced, st.text(max_size=30).filter(lambda text: "\\" not in text and "<" not in text))
def test_any_balanced_content_comes_back(content: str, before: str) -> None:
    assert last_boxed(before + r"\boxed{" + content + "}.") == (unwrap(content) or None)


@pytest.mark.parametrize(
    "response",
    [
        "\\" * 1_000_000,
        "<think>" * 150_000,
        "<think></think>" * 70_000,
        r"\boxed{" * 100_000,
        r"\boxed{" * 100_000 + "}" * 100_000,
        r"\boxed{" + "{" * 100_000 + "}" * 100_000 + "}",
        r"\boxed{" + "9" * 1_000_000 + "}",
        r"\boxed" + " " * 1_000_000,
        "\x00\ud800" * 100_000,
    ],
    ids=[
        "backslashes",
        "thinks",
        "empty thinks",
        "opened",
        "nested",
        "braces",
        "digits",
        "spaces",
        "odd characters",
    ],
)
def test_extraction_is_linear_on_hostile_input(response: str) -> None:
    started = time.perf_counter()
    last_boxed(response)
    assert time.perf_counter() - started < 3  # quadratic code takes minutes


@pytest.mark.parametrize(
    ("gold", "answers"),
    [
        ("025", ("025",)),
        (" $[0,1)$ ", ("[0,1)",)),
        (42, ("42",)),
        (0.5, ("0.5",)),
        (Decimal("1.50"), ("1.50",)),
        (["1", r"\boxed{2}", 3], ("1", "2", "3")),
    ],
)
def test_gold_answers(gold: object, answers: tuple[str, ...]) -> None:
    assert gold_answers(gold) == answers


@pytest.mark.parametrize("gold", ["", "  ", "$ $", [], ["1", ""], None, {"answer": 1}, b"1"])
def test_gold_answers_refuses_what_is_no_answer(gold: object) -> None:
    with pytest.raises(PaddError, match="gold answer"):
        gold_answers(gold)
