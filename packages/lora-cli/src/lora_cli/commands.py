"""What a shell may ask of the core: each call notes the wish, with its time, and returns at once."""

import queue
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from lora_cli import session
from lora_cli.kept import KeptTakes
from lora_cli.ports import Block
from lora_cli.session import Event
from lora_cli.store import Origin
from lora_cli.transcripts import Transcripts


class Commands(ABC):
    """The core's commands, callable from any thread; the core's own thread carries them out in order."""

    def __init__(self, transcripts: Transcripts, kept: KeptTakes, clock: Callable[[], float]) -> None:
        self.transcripts = transcripts
        self._kept = kept
        self._clock = clock
        self._inbox: queue.SimpleQueue[Block | Callable[[], None] | None] = queue.SimpleQueue()

    def press(self, *, releases: bool = False) -> None:
        """The talk key went down; `releases` says that `release` will follow."""
        self._do(session.Press(self._clock(), releases))

    def release(self) -> None:
        """The talk key came up."""
        self._do(session.Release(self._clock()))

    def cancel(self) -> None:
        """Throw the running take away."""
        self._do(session.Cancel(self._clock()))

    def lose_focus(self) -> None:
        """The terminal lost the focus."""
        self._do(session.FocusLost(self._clock()))

    def switch_mic(self) -> None:
        """Open the microphone for listening, or close it."""
        self._do(session.MicSwitch(self._clock()))

    def choose_device(self, name: str | None) -> None:
        """Use another microphone from now on."""
        self._inbox.put(lambda: self._choose_device(name))

    def choose_voice(self, name: str | None) -> None:
        """Hear this adapter beside the base model; None hears the base model alone."""
        self._inbox.put(lambda: self.transcripts.choose(name))

    def load_adapter(self, folder: Path, name: str) -> None:
        """Load a further adapter and choose it."""
        self._inbox.put(lambda: self.transcripts.load_adapter(folder, name))

    def run_again(self, take_id: str, voices: Sequence[str] | None = None) -> None:
        """Make the texts of a take anew, by all shown voices unless given."""
        self._inbox.put(lambda: self._run_again(take_id, voices))

    def teach(self, take_id: str, text: str, origin: Origin) -> None:
        """Save a take with its right text as training data."""
        self._inbox.put(lambda: self._kept.teach(take_id, text, origin))

    def vote(self, take_id: str, winner: str) -> None:
        """Keep a blind vote."""
        self._inbox.put(lambda: self._kept.vote(take_id, winner))

    def delete(self, take_id: str) -> None:
        """Remove a take."""
        self._inbox.put(lambda: self._kept.delete(take_id))

    def _do(self, event: Event) -> None:
        self._inbox.put(lambda: self._step(event))

    @abstractmethod
    def _step(self, event: Event) -> None: ...

    @abstractmethod
    def _choose_device(self, name: str | None) -> None: ...

    @abstractmethod
    def _run_again(self, take_id: str, voices: Sequence[str] | None) -> None: ...
