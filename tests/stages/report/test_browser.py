"""The page in a real browser: nothing is wrong, nothing is cut off, tables sort, samples change with the layer."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from padd_artifacts.writer import Output
from padd_stages.report import stage as write_report
from padd_stages.report.options import ReportInputs, ReportOptions

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api")

WIDTHS = (390, 1440)
# Elements that stick out of the window, unless they lie in a box that scrolls or are hidden on purpose.
STICKING_OUT = """() => [...document.querySelectorAll("body *")].filter((element) => {
  if (element.closest(".scroll, .unseen, script, style, defs")) return false;
  const box = element.getBoundingClientRect();
  return box.width > 0 && (box.left < -1 || box.right > document.documentElement.clientWidth + 1);
}).map((element) => element.outerHTML.slice(0, 100))"""

CUT_TABLES = """() => [...document.querySelectorAll(".scroll")]
  .filter((box) => box.scrollWidth > box.clientWidth + 1).map((box) => box.getAttribute("aria-label"))"""


@pytest.fixture(scope="module")
def address(made, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = Output(tmp_path_factory.mktemp("browser") / "report")
    artifact = write_report.run(ReportInputs(runs=made.words), ReportOptions(), output)
    return artifact.file(write_report.PAGE_FILE).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium of PADD_CHROMIUM, of the system, or of playwright; skips without one."""
    found = [os.environ.get("PADD_CHROMIUM"), shutil.which("chromium"), shutil.which("google-chrome")]
    path = next((name for name in found if name), None)
    with playwright.sync_playwright() as driver:
        try:
            opened = driver.chromium.launch(executable_path=path)
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address, request) -> Iterator[Any]:
    """The page, opened; the test fails if the browser complained or asked for anything but the file."""
    options = getattr(request, "param", {})
    opened = browser.new_page(**options)
    complaints: list[str] = []
    opened.on(
        "console",
        lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None,
    )
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: complaints.append(request.url) if request.url != address else None)
    opened.goto(address)
    yield opened
    opened.close()
    assert [text for text in complaints if not text.startswith("data:")] == []


VIEWS = [
    {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    for width in WIDTHS
    for scheme in ("light", "dark")
]


@pytest.mark.parametrize(
    "page", VIEWS, indirect=True, ids=[f"{v['viewport']['width']}-{v['color_scheme']}" for v in VIEWS]
)
def test_nothing_is_cut_off(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(STICKING_OUT) == []
    if page.viewport_size["width"] == max(
        WIDTHS
    ):  # a narrow window scrolls its tables, a wide one shows them whole
        assert page.evaluate(CUT_TABLES) == []


@pytest.mark.parametrize("page", VIEWS[:2], indirect=True, ids=["light", "dark"])
def test_text_stands_out_from_its_ground(page) -> None:
    """Contrast of at least 4.5 (WCAG AA) for body, notes, links and figures' texts."""
    for selector in ("body", "figcaption", "nav a", "th button", "svg text"):
        ratio = page.evaluate(
            """(selector) => {
              const light = (colour) => {
                const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
                  .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
              };
              const style = getComputedStyle(document.querySelector(selector));
              const text = selector === "svg text" ? style.fill : style.color;
              const [a, b] = [light(text), light(getComputedStyle(document.body).backgroundColor)].sort();
              return (b + 0.05) / (a + 0.05);
            }""",
            selector,
        )
        assert ratio >= 4.5, selector


def column(page, number: int) -> list[str]:
    return (
        page.locator("#training table").nth(1).locator(f"tbody tr > :nth-child({number})").all_inner_texts()
    )


def test_tables_sort_by_click_and_by_keyboard(page) -> None:
    heads = page.locator("#training table").nth(1).locator("thead th")
    before = column(page, 2)
    values = [float(text.split()[0]) for text in before]
    heads.nth(1).locator("button").click()
    assert heads.nth(1).get_attribute("aria-sort") == "descending"
    assert [float(text.split()[0]) for text in column(page, 2)] == sorted(values, reverse=True)
    heads.nth(1).locator("button").press("Enter")
    assert heads.nth(1).get_attribute("aria-sort") == "ascending"
    assert [float(text.split()[0]) for text in column(page, 2)] == sorted(values)
    heads.nth(0).locator("button").press("Space")
    assert column(page, 1) == ["grpo", "padd"]
    assert heads.nth(0).get_attribute("aria-sort") == "ascending"
    assert heads.nth(1).get_attribute("aria-sort") is None
    assert "sorted by method" in page.locator("#said").inner_text()


def test_samples_change_with_the_layer(page) -> None:
    token = page.locator(".token").first
    experts = page.evaluate("JSON.parse(document.querySelector('.token').dataset.experts)")
    for place, expert in enumerate(experts):
        page.select_option("#layer", str(place))
        assert token.get_attribute("data-expert") == str(expert)
        listed = page.locator(".experts li").all_inner_texts()
        assert any(text.startswith(f"expert {expert}") for text in listed)
    token.focus()
    assert f"expert {experts[-1]}, probability" in page.locator("#token").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement === document.querySelectorAll('.token')[1]")


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True, ids=["plain"])
def test_without_scripts_tables_figures_and_samples_are_there(page) -> None:
    for selector in ("#result table", "#training svg", "#samples .token", "#provenance table"):
        assert page.locator(selector).first.is_visible()
    assert not page.locator(".controls").is_visible()
