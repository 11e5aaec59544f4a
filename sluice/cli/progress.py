"""Progress bars: on stderr, and only if it is a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, ProgressColumn, TextColumn


@contextmanager
def progress_bar(*columns: ProgressColumn | str) -> Iterator[Progress]:
    """Yields a bar of these columns, and removes the bar at the end. Texts in the bar are not
    parsed as markup.
    """
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    shown = [TextColumn(one, markup=False) if isinstance(one, str) else one for one in columns]
    with Progress(*shown, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress
