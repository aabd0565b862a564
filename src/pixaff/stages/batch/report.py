"""What a run returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from pixaff.stages.batch.naming import Names


@dataclass
class Report:
    """The results of a run, by file names of photos; with ``--recursive``, by their paths from the folder given.

    Attributes:
        done: Photos whose outputs were written.
        skipped: Photos whose outputs existed already.
        failed: Photos that failed, each with the reason in one line.
        seconds: Duration of the run.
        names: What the photos are called.
        silent: Whether another process of the run tells its results.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    names: Names = field(default_factory=Names, repr=False)
    silent: bool = field(default=False, repr=False)

    @property
    def ok(self) -> bool:
        """Whether every photo has its output."""
        return not self.failed

    def counts(self) -> dict[str, int]:
        return {"done": len(self.done), "skipped": len(self.skipped), "failed": len(self.failed)}
