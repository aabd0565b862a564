"""The stages of a long run as a live table on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pixaff.cli.durations import rough_words, seconds_words
from pixaff.events import Event

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

STATES = {"waiting": "", "begun": "running", "running": "running", "done": "done", "kept": "kept"}


class StageTable:
    """Draws the ``stage`` events of a run: each stage with its state, progress, time and key figure."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[str, Any]] = {}
        self._left: float | None = None
        self._live: Live | None = None

    @property
    def drawn(self) -> bool:
        """Whether the table is on the screen."""
        return self._live is not None

    def update(self, event: Event) -> None:
        """Take a ``stage`` event."""
        facts = event.data
        self._rows[facts["stage"]] = (event.text.partition(": ")[2], facts)
        self._left = facts.get("seconds_left", self._left)
        if len(self._rows) < facts["stages"]:
            return
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        self._live.update(self._table(), refresh=True)

    def say(self, words: str) -> None:
        """Print a line above the table."""
        if self._live is not None:
            self._live.console.print(words, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the table as it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None

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
