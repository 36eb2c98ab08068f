"""Rendering of the page: templates, style and script in one file that needs no other."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from padd_stages.lib.plots.style import COLOURS, LINE_STYLES
from padd_stages.lib.plots.table import Cell, Table
from padd_stages.report.figures import CaptionedFigure
from padd_stages.report.samples import Sample, hue
from padd_stages.report.svg import inline_svg

NEGATIVE = re.compile(r"(?<![\w-])-(?=\d)")  # not the hyphen of grpo-0
NUMBER = re.compile(r"(?P<number>[+-]?\d[\d,]*(\.\d+)?(e[+-]\d+)?)%?(?= |$)")  # not a digest such as 12e45678
# SVG dashes of a legend's strokes, one for each of matplotlib's line styles.
DASHES = {"-": "none", "--": "5 2.5", "-.": "6 2 1.5 2", ":": "1.5 2"}


@dataclass(frozen=True)
class Fact:
    """A name and its value, for the head of the page."""

    name: str
    value: str


@dataclass(frozen=True)
class Section:
    """A part of the page: tables and wide figures; ``panels`` are small figures under one legend."""

    key: str
    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[CaptionedFigure] = field(default_factory=list)
    panels: list[CaptionedFigure] = field(default_factory=list)
    legend: list[str] = field(default_factory=list)
    tables_after: list[Table] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """Content of the page, in order; ``layers`` are the decoder layers of the samples."""

    title: str
    lead: str
    facts: list[Fact]
    sections: list[Section]
    samples: list[Sample]
    layers: list[int]
    samples_of: str
    provenance: Section
    commands: list[Fact]
    notes: list[str]


def render(page: Page) -> str:
    """Return the HTML text."""
    environment = Environment(
        loader=PackageLoader("padd_stages.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": _svg, "sort_value": sort_value, "joined": _joined, "typeset": typeset}
    environment.globals |= {
        "hue": hue,
        "dashes": [_dashes(style) for style in LINE_STYLES],
        "colours": COLOURS,
    }
    return environment.get_template("page.html.jinja").render(page=page)


def sort_value(cell: Cell) -> float | None:
    """Return a cell's sort key: its own order, else the number that it starts with; None for words and missing ones."""
    if cell.order is not None:
        return cell.order
    found = NUMBER.match(cell.value)
    return float(found["number"].replace(",", "")) if found else None


def typeset(text: str) -> str:
    """Put minus signs before numbers, and a narrow no-break space before a percent sign."""
    return NEGATIVE.sub("\N{MINUS SIGN}", text).replace(" %", "\N{NARROW NO-BREAK SPACE}%")


def _svg(drawing: CaptionedFigure) -> Markup:
    return Markup(inline_svg(drawing.figure, drawing.name, f"{drawing.title}. {drawing.caption}".strip()))


def _joined(values: Iterable[Any]) -> str:
    return json.dumps(list(values), separators=(",", ":"))


def _dashes(style: Any) -> str:
    return DASHES.get(style) or " ".join(str(length) for length in style[1])


def all_figures(sections: Sequence[Section]) -> list[CaptionedFigure]:
    """Return every wide figure, in the page's order."""
    return [drawing for section in sections for drawing in section.figures]
