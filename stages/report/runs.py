"""Grouping of artifacts into runs: trained students with their evaluations and reports, linked by digests."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import MANIFEST_NAME, Parent
from padd_artifacts.work import is_work_folder

DEPTH = 2  # folders below the one named: a run holds train/ and eval/trained/
STATES = ("teacher", "base", "stage1")


@dataclass(frozen=True)
class Run:
    """One trained student (None: a model without its training) with its evaluations and reports, the newest last.

    Of several expert reports the newest is shown.
    """

    student: Artifact | None
    evaluations: list[Artifact] = field(default_factory=list)
    experts: Artifact | None = None
    older_experts: list[Artifact] = field(default_factory=list)

    @property
    def seed(self) -> int:
        """Seed of the training, else of the first evaluation or report."""
        known = [self.student, *self.evaluations, self.experts]
        return next(artifact.manifest.seed for artifact in known if artifact is not None)


@dataclass(frozen=True)
class RunArtifacts:
    """Artifacts that a page is made from.

    Attributes:
        methods: by name, the runs in the order of their seeds.
        states: evaluations of the models that the students came from: ``teacher``, ``base``, ``stage1``.
        models: these models, by the same names.
        origins: the artifacts that the students were made from, by digest, and the other ones that were found.
    """

    methods: dict[str, list[Run]]
    states: dict[str, list[Artifact]]
    models: dict[str, list[Parent]]
    origins: list[Artifact]

    def of_kind(self, kind: str) -> list[Artifact]:
        """Return the origins of one kind; of students those that a warmup wrote, which may be a run itself."""
        own = [run.student for _, run in self.runs if run.student is not None]
        found = [a for a in [*self.origins, *own] if a.manifest.kind == kind]
        return [a for a in found if kind != "student" or is_warmup(a)]

    @property
    def runs(self) -> Iterator[tuple[str, Run]]:
        """All runs with their method's name."""
        return ((name, run) for name, runs in self.methods.items() for run in runs)


def find_runs(folders: Mapping[str, Sequence[Path]]) -> RunArtifacts:
    """Group the artifacts of each method's folders into runs.

    A folder is an artifact or holds some. A run is a student that no other student found here was made from.
    Evaluations and expert reports belong to the student that they name as their parent, by digest, wherever they were
    found. What a student was made from is looked up among everything found, else where its manifest says.

    Raises:
        PaddError: a folder with no artifact in it, an artifact that cannot be read, a student of two methods, or
            nothing that a page could be made of.
    """
    named = {name: [a for path in paths for a in artifacts_in(path)] for name, paths in folders.items()}
    pool = {a.manifest.digest: a for artifacts in named.values() for a in artifacts}
    students = {name: _students(artifacts, pool) for name, artifacts in named.items()}
    everyone = [student for found in students.values() for student in found]
    ancestors = {a.manifest.digest: a for student in everyone for a in _ancestors(student, pool)}
    models = {parent.digest: (role, parent) for student in everyone for parent, role in _roles(student, pool)}
    owners = _owners(students, ancestors)
    runs = {
        name: [Run(s, *_measured(s, pool)) for s in found]
        for name, found in _leaves(students, ancestors).items()
    }
    states: dict[str, dict[str, Artifact]] = {state: {} for state in STATES}
    for name, artifacts in named.items():
        for evaluation in _of_kind(artifacts, "evaluation"):
            model = _parent_digest(evaluation, "model")
            if model in owners:
                continue
            if model in models:
                states[models[model][0]][evaluation.manifest.digest] = evaluation
            else:
                runs[name].append(Run(None, [evaluation]))
        for experts in _of_kind(artifacts, "experts"):
            if _parent_digest(experts, "student") not in owners:
                runs[name] = _with_experts(runs[name], experts)
    if not any(runs.values()):
        raise PaddError(
            f"{', '.join(str(path) for paths in folders.values() for path in paths)} holds no trained student, no "
            "evaluation and no expert report, so there is nothing to report; name the folder of a run, or an "
            "evaluation or expert report of a model."
        )
    beside = {digest: a for digest, a in pool.items() if a.manifest.kind in ("clusters", "split", "toy")}
    return RunArtifacts(
        methods={name: sorted(found, key=lambda run: run.seed) for name, found in runs.items() if found},
        states={state: list(evaluations.values()) for state, evaluations in states.items()},
        models={state: [parent for role, parent in models.values() if role == state] for state in STATES},
        origins=[a for digest, a in (ancestors | beside).items() if digest not in owners],
    )


def artifacts_in(folder: Path, depth: int = DEPTH) -> list[Artifact]:
    """Return the artifact that a folder is, else those in it. Files are checked when they are read, not here.

    Raises:
        PaddError: the folder does not exist or holds no artifact.
    """
    found = list(_walk(folder, depth))
    if not found:
        open_artifact(folder, check=False)  # raises the reason
    return found


def is_warmup(artifact: Artifact) -> bool:
    """Return whether a student comes out of Stage I."""
    return artifact.manifest.kind == "student" and "clusters" in artifact.manifest.parents


def resolve(parent: Parent, pool: Mapping[str, Artifact]) -> Artifact | None:
    """Find a parent's artifact: in the pool, else at the manifest's path if its digest is still the same."""
    if parent.digest in pool:
        return pool[parent.digest]
    if not parent.path or not (Path(parent.path) / MANIFEST_NAME).is_file():
        return None
    artifact = open_artifact(parent.path, check=False)
    return artifact if artifact.manifest.digest == parent.digest else None


def _walk(folder: Path, depth: int) -> Iterator[Artifact]:
    if (folder / MANIFEST_NAME).is_file():
        yield open_artifact(folder, check=False)
    elif depth > 0 and folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not is_work_folder(path):
                yield from _walk(path, depth - 1)


def _students(artifacts: Sequence[Artifact], pool: Mapping[str, Artifact]) -> list[Artifact]:
    """Return the students in the folders, and those whose evaluations and expert reports are in them."""
    found = {a.manifest.digest: a for a in _of_kind(artifacts, "student")}
    for role, kind in (("model", "evaluation"), ("student", "experts")):
        for artifact in _of_kind(artifacts, kind):
            parent = artifact.manifest.parents.get(role)
            model = resolve(parent, pool) if parent is not None else None
            if model is not None and model.manifest.kind == "student":
                found.setdefault(model.manifest.digest, model)
    return list(found.values())


def _leaves(
    students: Mapping[str, Sequence[Artifact]], ancestors: Mapping[str, Artifact]
) -> dict[str, list[Artifact]]:
    """Return the students that no other was made from, by method."""
    return {
        name: [s for s in found if s.manifest.digest not in ancestors] for name, found in students.items()
    }


def _owners(students: Mapping[str, Sequence[Artifact]], ancestors: Mapping[str, Artifact]) -> dict[str, str]:
    """Return the method of each run, by the student's digest; PaddError if it has two."""
    owners: dict[str, str] = {}
    for name, found in _leaves(students, ancestors).items():
        for student in found:
            first = owners.setdefault(student.manifest.digest, name)
            if first != name:
                raise PaddError(
                    f"{student.path} is a run of both '{first}' and '{name}', so it would stand beside itself; "
                    "name each student under one method."
                )
    return owners


def _ancestors(artifact: Artifact, pool: Mapping[str, Artifact]) -> Iterator[Artifact]:
    for parent in artifact.manifest.parents.values():
        if (found := resolve(parent, pool)) is not None:
            yield found
            yield from _ancestors(found, pool)


def _roles(student: Artifact, pool: Mapping[str, Artifact]) -> Iterator[tuple[Parent, str]]:
    """Iterate over the models that a student came from, with their roles."""
    parents = student.manifest.parents
    if "teacher" in parents:
        yield parents["teacher"], "teacher"
    if "student" not in parents:
        return
    before = resolve(parents["student"], pool)
    if before is None or before.manifest.kind != "student":
        yield parents["student"], "base"
        return
    if is_warmup(before):
        yield parents["student"], "stage1"
    yield from _roles(before, pool)


def _measured(
    student: Artifact, pool: Mapping[str, Artifact]
) -> tuple[list[Artifact], Artifact | None, list[Artifact]]:
    """Return the evaluations of one student, its newest expert report, and the older ones."""
    digest = student.manifest.digest
    made = sorted(pool.values(), key=lambda a: (a.manifest.provenance.created, a.manifest.digest))
    evaluations = [a for a in _of_kind(made, "evaluation") if _parent_digest(a, "model") == digest]
    experts = [a for a in _of_kind(made, "experts") if _parent_digest(a, "student") == digest]
    return evaluations, experts[-1] if experts else None, experts[:-1]


def _with_experts(runs: list[Run], experts: Artifact) -> list[Run]:
    """Add the expert report of a model that padd did not train, beside its evaluation if there is one."""
    model = _parent_digest(experts, "student")
    for place, run in enumerate(runs):
        if run.experts is None and any(_parent_digest(each, "model") == model for each in run.evaluations):
            return [*runs[:place], replace(run, experts=experts), *runs[place + 1 :]]
    return [*runs, Run(None, [], experts)]


def _of_kind(artifacts: Iterable[Artifact], kind: str) -> list[Artifact]:
    return [artifact for artifact in artifacts if artifact.manifest.kind == kind]


def _parent_digest(artifact: Artifact, role: str) -> str | None:
    parent = artifact.manifest.parents.get(role)
    return parent.digest if parent is not None else None
