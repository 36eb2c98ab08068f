"""Data of a page: one run, or several compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from padd_artifacts.artifact import Artifact
from padd_stages.report.accuracies import STATE_NAMES, Results
from padd_stages.report.routing import Routing
from padd_stages.report.runs import RunArtifacts
from padd_stages.report.training import Training


@dataclass(frozen=True)
class PageData:
    """Data of a page, read from artifacts."""

    artifacts: RunArtifacts
    results: Results
    training: Training
    routing: Routing

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order that gives each its colour."""
        return list(self.artifacts.methods)

    def as_json(self) -> dict[str, Any]:
        """Return all numbers of the page but those of provenance."""
        artifacts = self.artifacts
        return {
            "methods": {
                name: [
                    {"seed": run.seed, "summary": run.student.manifest.summary if run.student else None}
                    for run in runs
                ]
                for name, runs in artifacts.methods.items()
            },
            "result": self.results.as_json(),
            "stage1": {
                "clusters": [a.report for a in artifacts.of_kind("clusters")],
                "warmup": [a.report for a in artifacts.of_kind("student")],
            },
            "training": self.training.as_json(),
            "routing": self.routing.as_json(),
            "notes": self.notes(),
        }

    def notes(self) -> list[str]:
        """Return the page's caveats, a sentence each."""
        notes = list(self.results.notes)
        for name, runs in self.artifacts.methods.items():
            students = [run.student for run in runs if run.student is not None]
            notes += [
                f"{name}, seed {run.seed}: of {len(run.older_experts) + 1} expert reports the newest is shown."
                for run in runs
                if run.older_experts
            ]
            differing = _differing(students)
            if differing:
                notes.append(
                    f"{name}: its runs differ in {', '.join(differing)}, so they are not seeds of one method."
                )
            states = [s.manifest.summary.get("stage3") for s in students]
            if acting := [state for state in states if state in ("inactive", "saturated")]:
                notes.append(f"{name}: Stage III was {acting[0]} in {len(acting)} of {len(states)} runs.")
        reports = [r.artifact for found in self.routing.reports.values() for r in found]
        if differing := _differing(reports):
            notes.append(
                f"The expert reports were made with different {', '.join(differing)}, which may be what differs."
            )
        if len(self.routing.agreement_measures) > 1:
            notes.append(
                "The expert reports measure agreement with the clusters in two ways, over tokens and over "
                "subdomains, so it is left out of the table."
            )
        return list(dict.fromkeys(notes))


def provenance(artifacts: RunArtifacts) -> list[tuple[str, Artifact]]:
    """Return every artifact of the page with its title, the oldest first."""
    listed = [(_origin_name(a), a) for a in artifacts.origins]
    for name, run in artifacts.runs:
        label = f"{name}, seed {run.seed}"
        listed += [(label, a) for a in (run.student, run.experts, *run.evaluations) if a is not None]
    listed += [(STATE_NAMES[state], a) for state, held in artifacts.states.items() for a in held]
    return sorted(listed, key=lambda row: row[1].manifest.provenance.created)


def _differing(students: Sequence[Artifact]) -> list[str]:
    options = [student.manifest.options for student in students]
    names = dict.fromkeys(name for given in options for name in given)
    return [name for name in names if any(given.get(name) != options[0].get(name) for given in options)]


def _origin_name(artifact: Artifact) -> str:
    kind = artifact.manifest.kind
    if kind != "student":
        return kind
    return "Stage I" if "clusters" in artifact.manifest.parents else "teacher"
