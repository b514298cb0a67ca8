"""The console of progress and remarks: Rich on standard error, where outside text is text and nothing else."""

from collections.abc import Iterable
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from lora.escape import printable_lines
from lora.terminal import unguarded


class PlainConsole(Console):
    """A console without markup and emoji codes, whose texts keep no control character; its own styles do."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=quiet)

    @property
    def file(self) -> IO[str]:
        return unguarded(super().file)  # type: ignore[arg-type]

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable_lines(segment.text))
