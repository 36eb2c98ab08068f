"""The paper's own numbers, shown beside measured ones (docs/METHOD.md, section 7)."""

from dataclasses import dataclass
from importlib import resources

import yaml

from padd_stages.lib.options.shared import PublishedSet


@dataclass(frozen=True)
class Published:
    """Rows of percents by column; ``note`` names their source."""

    rows: dict[str, dict[str, float]]
    note: str

    @property
    def columns(self) -> list[str]:
        """The columns that some row has."""
        return list(dict.fromkeys(column for percents in self.rows.values() for column in percents))


def load_published(name: PublishedSet) -> Published:
    """Read one of the tables of ``published.yaml``."""
    raw = yaml.safe_load(
        (resources.files("padd_stages.compare") / "published.yaml").read_text(encoding="utf-8")
    )
    table = raw["sets"][name]
    note = (
        f"rows marked published are not measured here: {raw['source']}, {table['title']}; their average is over "
        "AIME24, AMC23, MATH500, Minerva-Math and OlympiadBench."
    )
    return Published(table["rows"], note)
