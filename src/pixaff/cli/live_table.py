"""A table at the bottom of the terminal that is redrawn in place, with messages printed above it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live


class LiveTable:
    """Draws on standard error, from the first `show` to `close`."""

    def __init__(self) -> None:
        self._live: Live | None = None

    @property
    def drawn(self) -> bool:
        """Whether the table is on the screen."""
        return self._live is not None

    @property
    def height(self) -> int:
        """Number of lines of the terminal."""
        return 24 if self._live is None else self._live.console.height

    def show(self, table: RenderableType) -> None:
        """Draw the table, in the place of the one before."""
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        self._live.update(table, refresh=True)

    def say(self, words: str) -> None:
        """Print a line above the table."""
        if self._live is not None:
            self._live.console.print(words, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the table as it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None
