"""The stages of a long run as a live table on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pixaff.cli.durations import rough_words, seconds_words
from pixaff.cli.live_table import LiveTable
from pixaff.events import Event

if TYPE_CHECKING:
    from rich.table import Table

STATES = {"waiting": "", "begun": "running", "running": "running", "done": "done", "kept": "kept"}


class StageTable(LiveTable):
    """Draws the ``stage`` events of a run: each stage with its state, progress, time and key figure."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[int, tuple[str, Any]] = {}
        self._left: float | None = None

    def update(self, event: Event) -> None:
        """Take a ``stage`` event."""
        facts = event.data
        self._rows[facts["stage"]] = (event.text.partition(": ")[2], facts)
        self._left = facts.get("seconds_left", self._left)
        if len(self._rows) < facts["stages"]:
            return
        self.show(self._table())

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for name in ("", "stage", "", "done", "time", ""):
            table.add_column(name, justify="right" if name in ("done", "time") else "left", no_wrap=True)
        for number, (words, facts) in sorted(self._rows.items()):
            state = STATES[facts["state"]]
            busy = state in ("running", "done")
            cells = (
                str(number),
                words,
                state,
                f"{facts['done'] if state else 0}/{facts['total']} {facts['unit']}",
                seconds_words(facts["seconds"]) if busy else "",
                facts["figure"],
            )
            style = "bold" if state == "running" else "" if state else "dim"
            table.add_row(*(Text(cell) for cell in cells), style=style)
        if self._left:
            table.caption = f"about {rough_words(self._left)} left in all"
        return table
