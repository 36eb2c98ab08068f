"""Markdown pages: every relative link leads to a file, and every anchor to a heading in it."""

import re
import subprocess
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.+?)(?:\s+#+)?\s*$", re.MULTILINE)
FENCE = re.compile(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1`*\s*$", re.MULTILINE | re.DOTALL)


def pages() -> list[str]:
    """Tracked ones; all of them where there is no git."""
    try:
        command = ["git", "-C", str(ROOT), "ls-files", "*.md"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        found = [str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]]
    return [name for name in found if (ROOT / name).is_file()]


def prose(text: str) -> str:
    return FENCE.sub("", text)


def without_code(text: str) -> str:
    """Brackets in code are no links."""
    return re.sub(r"(`+)(?!`).*?\1", lambda code: re.sub(r"[\[\]()]", "", code[0]), prose(text))


def slugs(text: str) -> set[str]:
    """The anchors that GitHub gives a page's headings: a repeated one gets -1, -2, ..."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in HEADING.findall(prose(text)):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def broken(page: Path, text: str) -> list[str]:
    """Links of a page that lead nowhere."""
    wrong = []
    for target in LINK.findall(without_code(text)):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = (page.parent / name).resolve() if name else page
        known = file.is_relative_to(ROOT) and file.exists()
        if known and anchor:
            there = text if file == page else file.read_text(encoding="utf-8") if file.is_file() else ""
            known = anchor in slugs(there)
        if not known:
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("name", pages())
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_pages_of_the_root_and_of_docs_are_among_them() -> None:
    found = pages()
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/RESULTS.md"} <= set(found)


def test_a_broken_link_is_found() -> None:
    text = "# A `b-c`: d_e\n\n# Twice\n\n# Twice\n\n[ok](#a-b-c-d_e) [ok](#twice-1) [ok](docs/CLI.md#padd-train)\n"
    assert broken(ROOT / "README.md", text) == []
    assert broken(ROOT / "README.md", "[`x`\ny](docs/no.md) ![i](docs/no.png)") == [
        "docs/no.md",
        "docs/no.png",
    ]
    assert broken(ROOT / "README.md", "[x](docs/CLI.md#no) [y](#twice-2) [z](../../etc)\n") == [
        "docs/CLI.md#no",
        "#twice-2",
        "../../etc",
    ]
    assert broken(ROOT / "README.md", "```\n[x](no.md)\n```\n`[x](no.md)`\n") == []
