"""Append-only JSONL logs of a run."""

import json
import math
from pathlib import Path
from typing import Any

METRICS, ROUTING, SAMPLES, TIMINGS = "metrics.jsonl", "routing.jsonl", "samples.jsonl", "timings.jsonl"


def append_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows in one write, so that a kill leaves whole lines but for the last."""
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as handle:
        handle.write(text)


def finite(value: Any) -> Any:
    """Replace numbers that are not finite, which JSON cannot hold, by null in dicts and lists."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
