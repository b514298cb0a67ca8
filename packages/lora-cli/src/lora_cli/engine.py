"""The app's end of the model process: starts it, feeds it audio, passes on what it says."""

import contextlib
import itertools
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from lora.units import JsonObject
from lora_cli.protocol import receive, send

Deliver = Callable[[JsonObject], None]
LOG_TAIL_BYTES = 2000


@dataclass(frozen=True)
class ModelChoice:
    """Which model to load, and which adapters under which names."""

    model_id: str = "builtin:digits"
    adapters: tuple[tuple[str, Path], ...] = ()
    device: str = "auto"
    tokens_per_second: float | None = None


class Engine(Protocol):
    """Whoever makes texts. No method waits for a model."""

    def start(self, deliver: Deliver) -> None:
        """Start; every message goes to `deliver`, on any thread."""

    def tell(self, message: JsonObject, payload: bytes = b"") -> None:
        """Pass on a command, in order (see `desk.Desk`)."""

    def stop(self) -> None:
        """End it."""


class NoEngine:
    """Makes no texts: for recording alone."""

    def start(self, deliver: Deliver) -> None:
        """Nothing to start."""

    def tell(self, message: JsonObject, payload: bytes = b"") -> None:
        """Nobody listens."""

    def stop(self) -> None:
        """Nothing to stop."""


class ProcessEngine:
    """The model in a process of its own.

    Args:
        log: file for what the process prints; its end is shown when the process dies. One that is there stays, and
            another name is taken. It is kept where the process died.
        environment: variables added to the process's.
    """

    def __init__(self, choice: ModelChoice, log: Path, environment: dict[str, str] | None = None) -> None:
        self.choice = choice
        self.log = log
        self.environment = environment or {}
        self._outbox: queue.SimpleQueue[tuple[JsonObject, bytes] | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []
        self._stopping = self._died = False

    def start(self, deliver: Deliver) -> None:
        """Start the process and the two threads that talk with it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log = _free_name(self.log)
        with self.log.open("xb") as log:
            self._process = subprocess.Popen(
                worker_command(self.choice),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"TOKENIZERS_PARALLELISM": "false"} | self.environment,
                start_new_session=True,  # Ctrl-C in the terminal is the app's
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        self._threads = [
            threading.Thread(target=self._write, args=(stdin,), name="engine-write", daemon=True),
            threading.Thread(target=self._read, args=(stdout, deliver), name="engine-read", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def tell(self, message: JsonObject, payload: bytes = b"") -> None:
        """Queue a command: a process that loads reads no pipe for seconds, and the recorder must not wait."""
        self._outbox.put((message, payload))

    def stop(self) -> None:
        """Ask the process to go, then make it."""
        self._stopping = True
        self._outbox.put(({"do": "quit"}, b""))
        self._outbox.put(None)
        if self._process is not None:
            try:
                self._process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            for thread in self._threads:
                thread.join(timeout=2)
            if not self._died:
                self.log.unlink(missing_ok=True)

    def _write(self, stream: BinaryIO) -> None:
        with contextlib.suppress(BrokenPipeError), stream:  # the reading thread reports a death
            while (item := self._outbox.get()) is not None:
                send(stream, *item)

    def _read(self, stream: BinaryIO, deliver: Deliver) -> None:
        explained = False
        with stream:
            while (received := receive(stream)) is not None:
                explained = explained or received[0]["is"] == "error"
                deliver(received[0])
        assert self._process is not None
        code = self._process.wait()
        if not self._stopping and not explained:
            self._died = True
            message = f"the model process ended with code {code}; its log is {self.log}{self._log_tail()}"
            deliver({"is": "error", "message": message})

    def _log_tail(self) -> str:
        lines = self.log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""


def _free_name(path: Path) -> Path:
    """Return `path`, or the first of its numbered names where nothing is."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([path], numbered) if not os.path.lexists(name))


def worker_command(choice: ModelChoice) -> Sequence[str]:
    """Return the command line of the model process."""
    words = [sys.executable, "-m", "lora_cli.worker", "--model-id", choice.model_id, "--device", choice.device]
    if choice.tokens_per_second is not None:
        words += ["--tokens-per-second", str(choice.tokens_per_second)]
    for name, folder in choice.adapters:
        words += ["--adapter", name, str(folder)]
    return words
