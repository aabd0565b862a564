"""A training as a live table on a terminal: the loss and its terms by epoch, and how far it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pixaff.cli.durations import seconds_words
from pixaff.cli.live_table import LiveTable
from pixaff.events import Event

if TYPE_CHECKING:
    from rich.console import RenderableType

FACTS = ("step", "steps", "epoch", "epochs", "lr", "images_per_second", "seconds_left")
"""What the progress of a training contains besides the terms of the loss."""
EPOCHS = 6
"""Largest number of epochs in the table."""
OTHER_LINES = 4
"""Lines of the table that are not of an epoch, and the line of the prompt."""
EVERY = 0.1
"""Seconds between two drawings, at least."""


class TrainingTable(LiveTable):
    """Draws the ``progress`` events of one training."""

    def __init__(self) -> None:
        super().__init__()
        self._epochs: dict[int, dict[str, float]] = {}
        self._facts: dict[str, Any] = {}
        self._shown = 0.0

    def update(self, event: Event) -> None:
        """Take a ``progress`` event."""
        self._facts = {name: event.data[name] for name in FACTS}
        self._epochs[self._facts["epoch"]] = {name: value for name, value in event.data.items() if name not in FACTS}
        if time.monotonic() - self._shown >= EVERY or self._facts["step"] == self._facts["steps"]:
            self.show(self._table())
            self._shown = time.monotonic()

    def close(self) -> None:
        """Leave the table with the last step in it."""
        if self.drawn:
            self.show(self._table())
        super().close()

    def _table(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        facts, table = self._facts, Table(box=None, pad_edge=False)
        table.add_column("epoch", no_wrap=True)
        for name in self._epochs[facts["epoch"]]:
            table.add_column(name, justify="right", no_wrap=True, min_width=6)
        for epoch in sorted(self._epochs)[-max(1, min(EPOCHS, self.height - OTHER_LINES)) :]:
            now = epoch == facts["epoch"]
            number = f"{epoch}/{facts['epochs']}" if now else str(epoch)
            cells = (number, *(f"{value:.4f}" for value in self._epochs[epoch].values()))
            table.add_row(*(Text(cell) for cell in cells), style="bold" if now else "")
        words = (
            f"step {facts['step']}/{facts['steps']}, learning rate {facts['lr']:.3g}, "
            f"{facts['images_per_second']:.3g} images/s, {seconds_words(facts['seconds_left'])} left"
        )
        progress = Table.grid()
        progress.add_row(ProgressBar(total=facts["steps"], completed=facts["step"], width=len(words)))
        progress.add_row(Text(words, no_wrap=True, overflow="ellipsis"))
        return Group(table, progress)
