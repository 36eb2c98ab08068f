"""Routing of each method from the expert reports: numbers for tables, arrays for figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from padd_artifacts.artifact import Artifact
from padd_stages.lib.measures.seed_bands import t_half_width
from padd_stages.report.runs import RunArtifacts

ARRAYS_FILE, SAMPLES_FILE = "routing.safetensors", "samples.json"
OWN = "student"  # the role of the method's own model; base and stage1 are what methods share


@dataclass(frozen=True)
class ExpertReport:
    """One experts artifact: its numbers and its arrays."""

    artifact: Artifact
    report: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    def comparable(self, other: "ExpertReport") -> bool:
        """Return whether both are of the same layers and experts, and of text of the same subdomains."""
        shapes = [report.arrays[f"{OWN}.counts"].shape for report in (self, other)]
        texts = [report.report["models"][OWN]["tokens_by_subdomain"] for report in (self, other)]
        subdomains = [{name for name, tokens in text.items() if tokens > 0} for text in texts]
        return shapes[0] == shapes[1] and subdomains[0] == subdomains[1]

    @property
    def samples(self) -> dict[str, Any] | None:
        """``samples.json``, if there is one with something in it."""
        if SAMPLES_FILE not in self.artifact.manifest.files:
            return None
        self.artifact.check_file(SAMPLES_FILE)
        found = self.artifact.json(SAMPLES_FILE)
        return found if found["samples"] else None


@dataclass(frozen=True)
class Routing:
    """Expert reports of every method that has some, in the order of its seeds."""

    reports: dict[str, list[ExpertReport]]

    @property
    def featured(self) -> tuple[str, ExpertReport] | None:
        """The report whose single-model figures the page shows: the last method's first seed."""
        names = list(self.reports)
        return (names[-1], self.reports[names[-1]][0]) if names else None

    @property
    def agreement_measures(self) -> set[str]:
        """Measures of agreement with the clusters, over tokens or over subdomains; two are not one column."""
        reports = [r.report for found in self.reports.values() for r in found]
        found = [r["models"][OWN].get("cluster_agreement") for r in reports]
        return {agreement.get("measure", "") for agreement in found if agreement is not None}

    @property
    def classifier(self) -> dict[str, Any] | None:
        """Source of the subdomains, and the keyword rules against the data's own labels."""
        return self.featured[1].report.get("classifier") if self.featured is not None else None

    def models(self) -> dict[str, list[dict[str, Any]]]:
        """Return the numbers of each row of a table: shared states once, then each method's students by seed."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for reports in self.reports.values():
            for role, title in (("base", "base"), ("stage1", "Stage I")):
                if role in reports[0].report["models"]:
                    rows.setdefault(title, [reports[0].report["models"][role]])
        for name, reports in self.reports.items():
            rows[name] = [r.report["models"][OWN] for r in reports]
        return rows

    def shifts(self) -> dict[str, list[dict[str, Any]]]:
        """Return by method, for each seed, the change between Stage I (else the base) and the student."""
        found = {}
        for name, reports in self.reports.items():
            rows = [
                shift
                for r in reports
                for shift in r.report.get("shifts", [])
                if shift["to"] == OWN
                and shift["from"] == ("stage1" if "stage1" in r.report["models"] else "base")
            ]
            if rows:
                found[name] = rows
        return found

    def as_json(self) -> dict[str, Any]:
        """Return overall numbers by row and seed; layers stay in the expert reports."""
        rows = {
            name: [{key: value for key, value in model.items() if key != "layers"} for model in models]
            for name, models in self.models().items()
        }
        return {"models": rows, "shifts": self.shifts(), "classifier": self.classifier}


def read_routing(artifacts: RunArtifacts) -> Routing:
    """Read the expert reports and check their hashes."""
    reports: dict[str, list[ExpertReport]] = {}
    for name, run in artifacts.runs:
        if run.experts is not None:
            reports.setdefault(name, []).append(_read(run.experts))
    return Routing(reports)


def mean_and_half(models: list[dict[str, Any]], *keys: str) -> tuple[float, float] | None:
    """Compute mean and half 95 % interval over seeds of a number (nested by ``keys``; of a list its mean).

    None where a model lacks it.
    """
    values = [_nested(model, keys) for model in models]
    if any(value is None for value in values):
        return None
    array = np.array([np.mean(value) for value in values], dtype=np.float64)
    return float(array.mean()), float(t_half_width(array))


def _nested(value: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def _read(artifact: Artifact) -> ExpertReport:
    for name in ("report.json", ARRAYS_FILE):
        artifact.check_file(name)
    return ExpertReport(artifact, artifact.report, load_file(artifact.file(ARRAYS_FILE)))
