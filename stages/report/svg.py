"""Matplotlib figures as SVG inside a page: the page's own font and ink, colours that follow light and dark."""

import io
import re
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from padd_stages.lib.plots.style import COLOURS, DPI, INK

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "padd",
}  # text stays text; ids are the same in every run
FONT = re.compile(r"font: (?:(?P<weight>\w+) )?(?P<size>[\d.]+px) [^;\"]+")
IDENTIFIER = re.compile(r'(\bid="|url\(#|xlink:href="#)')
IMAGE = re.compile(r'(<image [^>]*?) id="[^"]*"')  # a hash of the pixels: the same in two equal panels
HEAD = re.compile(r"<svg [^>]*?viewBox=\"(?P<box>[^\"]+)\"[^>]*>")


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an ``<svg>`` element.

    Args:
        name: unique in the page; prefixes all ids, which must not be those of another figure.
        description: what is seen, for those who do not see it.

    Returns:
        One element without width and height, so that the page decides; texts in the page's font, INK as
        ``currentColor``, the colour of method i as ``var(--method-i)``.
    """
    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(
            stream, format="svg", dpi=DPI, transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = IMAGE.sub(r"\1", text)
    text = IDENTIFIER.sub(rf"\g<1>{name}-", text)
    text = FONT.sub(r"font: \g<size> var(--sans)", text)
    text = text.replace(INK, "currentColor")
    for place, colour in enumerate(COLOURS):
        text = text.replace(colour.lower(), f"var(--method-{place})")
    return HEAD.sub(
        rf'<svg role="img" aria-label="{_attribute(description)}" viewBox="\g<box>" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">',
        text,
        count=1,
    ).strip()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace("\\", "")
