"""The open microphone: opening, closing, and noticing that it has gone."""

from collections.abc import Callable

from lora.units import Seconds
from lora_cli.devices import Gone, NewDefault, SourceWatch
from lora_cli.ports import Block, InputPort, OnBlock, Stream

LOST_AFTER_S: Seconds = 1.4
LOST_AFTER_CHECKS = 18
"""Checks, 50 ms apart, without a block between them: a machine too busy to run us is not a lost microphone."""


class MicHolder:
    """Holds at most one open microphone.

    Three signs say that it has gone: the driver says so, PulseAudio's source has been removed (audio
    goes on then, from another source), or no block has come for `LOST_AFTER_S`.

    Args:
        on_block: called on the driver's thread.
        on_change: called on any thread when the open microphone has gone, or another became the default.
    """

    def __init__(
        self,
        port: InputPort,
        on_block: OnBlock,
        on_change: Callable[[Stream, Gone | NewDefault], None],
        clock: Callable[[], float],
    ) -> None:
        self.stream: Stream | None = None
        self._port, self._on_block, self._on_change, self._clock = port, on_block, on_change, clock
        self._watch: SourceWatch | None = None
        self._last_block = 0.0
        self._checks = 0

    @property
    def name(self) -> str | None:
        """Return the open microphone's name."""
        return None if self.stream is None else self.stream.name

    def open(self, device: str | None) -> Stream:
        """Open a microphone, unless one is open already.

        Raises:
            MicError: it cannot be opened.
        """
        if self.stream is not None:
            return self.stream
        opened: list[Stream] = []

        def lost(why: str) -> None:
            if opened:
                self._on_change(opened[0], Gone(why))

        stream = self._port.open(device, self._note, lost)
        opened.append(stream)
        self.stream = stream
        self._last_block, self._checks = self._clock(), 0
        self._watch = SourceWatch(stream.name, lambda change: self._on_change(stream, change))
        return stream

    def close(self) -> None:
        """Close it; nothing happens where none is open."""
        stream, self.stream = self.stream, None
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        if stream is not None:
            stream.close()

    def _note(self, block: Block) -> None:
        # On the driver's thread, so that a busy core does not take its own queue for a lost microphone.
        self._last_block, self._checks = self._clock(), 0
        self._on_block(block)

    def overdue(self) -> str | None:
        """Return why the microphone counts as lost although nobody said so, None while all is well."""
        self._checks += 1
        if self.stream is None or self._clock() - self._last_block <= LOST_AFTER_S or self._checks < LOST_AFTER_CHECKS:
            return None
        return f"{self.stream.name}: no audio for {LOST_AFTER_S:.1f} s; unplugged, or its sound server stopped."
