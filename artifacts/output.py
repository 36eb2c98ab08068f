"""Output folder of a run and the checks on it before any work."""

from dataclasses import dataclass, field
from pathlib import Path

from padd_artifacts import work
from padd_artifacts.errors import PaddError
from padd_artifacts.plan import Plan
from padd_artifacts.space import explaining_output_errors
from padd_artifacts.target import check_surroundings, check_target, real_path
from padd_artifacts.work import WorkFolder


@dataclass(frozen=True)
class Output:
    """Output path and options of the call. ``inputs``: paths that the call names, beside the plan's."""

    out: Path
    force: bool = False
    resume: bool = False
    command: str = ""
    option_sources: dict[str, str] = field(default_factory=dict)
    inputs: tuple[Path, ...] = ()

    def unfinished(self, key: str | None = None) -> WorkFolder | None:
        """Return the interrupted run to be resumed here, of several the one with this recipe key; else None."""
        waiting = [
            folder
            for folder in work.find(real_path(self.out))
            if folder.resumable and (not folder.is_live() or folder.is_sibling())
        ]
        return max(reversed(waiting), key=lambda folder: folder.marker.key == key, default=None)

    def check(self, plan: Plan | None = None) -> None:
        """Refuse an output that cannot be written or replaced, a second run at a time, and resuming from nothing.

        An artifact that a killed run had moved away to replace it is put back first.

        Args:
            plan: of the run; without it the kind and the inputs that it knows are not looked at.

        Raises:
            PaddError: why not.
        """
        with explaining_output_errors(self.out):
            check_surroundings(self.out)
            for folder in work.find(real_path(self.out)):
                if folder.is_live() and not folder.is_sibling():
                    raise self.occupied_error(folder)
            self.put_back()
            self.check_target(plan)
        if self.resume and self.unfinished() is None:
            raise PaddError(
                f"there is no interrupted run of {self.out} to go on from, so there is nothing to resume; "
                "leave --resume out to start."
            )

    def put_back(self) -> None:
        """Restore the artifact at the output if a run was killed between moving it away and replacing it.

        Raises:
            PaddError: something else stands there by now.
        """
        place = real_path(self.out)
        for folder in work.find(place):
            if folder.holds_replaced and folder.claim():
                try:
                    folder.put_back(place)
                finally:
                    folder.release()

    def check_target(self, plan: Plan | None) -> None:
        """Repeat the part of `check` whose result can have changed while the run worked: what is at the output."""
        known = [parent.path for parent in plan.parents.values() if parent.path] if plan is not None else []
        check_target(
            self.out,
            real_path(self.out),
            kind=plan.kind if plan is not None else None,
            force=self.force,
            inputs=[*self.inputs, *known],
        )

    def occupied_error(self, folder: WorkFolder) -> PaddError:
        """Return the error that another run works on this output."""
        return PaddError(
            f"{folder.owner} is at work on {self.out} (in {folder.path}), so no other run starts; wait for it or end "
            "it, or name another --out."
        )
