"""What may reach the screen: texts and names come from outside, and a terminal obeys what is in them."""

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from lora.escape import replace_controls


class PlainLines(LineFilter):
    """Drops control characters from every line that the app draws; most take no room, so the layout stays."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return the line without them."""
        return [
            segment if segment.control else segment._replace(text=replace_controls(segment.text, ""))
            for segment in segments
        ]
