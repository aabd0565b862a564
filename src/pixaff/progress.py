"""Progress bars on a terminal or in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pixaff.events import Event

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ProgressBar:
    """A callback that draws the progress of a run, a training or a download as a bar on standard error."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._shown = ""
        self._total = self._count = 0

    def __call__(self, event: Event) -> None:
        """Receive an event of a stage; events that are not about progress are ignored."""
        if event.kind == "begin":
            self._begin(event.command, event.total)
        elif event.kind == "end":
            self.close()
        elif event.kind in ("done", "skipped", "failed"):
            self._count += 1
            self._update(event.command)
        elif event.kind == "progress":
            if event.total != self._total:
                self._begin(event.command, event.total)
            self._count = event.data["step"]
            self._update(event.text)
        elif event.kind == "download":
            self._download(event)

    @property
    def drawn(self) -> bool:
        """Whether a bar is on the screen."""
        return self._bar is not None

    def say(self, words: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(words, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        self._shown = ""

    def _begin(self, command: str, total: int) -> None:
        from rich.progress import MofNCompleteColumn, TimeRemainingColumn

        self.close()
        self._total, self._count = total, 0
        self._draw(command, total, MofNCompleteColumn(), TimeRemainingColumn())

    def _download(self, event: Event) -> None:
        from rich.progress import DownloadColumn, TransferSpeedColumn

        if event.text != self._shown:
            self.close()
            self._draw(event.text, event.data["total"], DownloadColumn(), TransferSpeedColumn())
            self._shown = event.text
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=event.data["done"], total=event.data["total"])

    def _draw(self, words: str, total: int | None, *columns: object) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        text = TextColumn("{task.description}", markup=False)
        self._bar = Progress(text, BarColumn(), *columns, console=Console(stderr=True), transient=True)  # type: ignore[arg-type]
        self._task = self._bar.add_task(words, total=total)
        self._bar.start()

    def _update(self, words: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=words, completed=self._count)
