"""A virtual microphone: PulseAudio with a pipe source that the test writes speech into.

A pipe source gives blocks only while somebody writes, so a thread writes silence on an absolute clock and
speech on cue; the instant of every sample is known.
"""

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

CHUNK_S = 0.02
CHUNK_BYTES = 640


class VirtualMicrophone:
    """A PulseAudio server of its own with one source, `fakemic`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_RUNTIME_PATH": str(folder / "pulse"),
            "PULSE_SERVER": f"unix:{folder}/pulse/native",
            "HOME": str(folder),
        }
        self._server: subprocess.Popen[bytes] | None = None
        self._pending = bytearray()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._module = ""

    @staticmethod
    def missing() -> list[str]:
        """Return the programs that are not installed."""
        return [name for name in ("pulseaudio", "pactl", "tmux") if shutil.which(name) is None]

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        words = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disallow-exit", "--use-pid-file=no"]
        words += ["-L", f"module-native-protocol-unix socket={self.folder}/pulse/native auth-anonymous=1"]
        words += ["-L", "module-null-sink sink_name=vspk", "-L", "module-always-sink"]
        (self.folder / "pulse").mkdir(exist_ok=True)
        with (self.folder / "pulse.log").open("wb") as log:
            self._server = subprocess.Popen(words, env=self.environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while self.pactl("info", check=False) is None:
            assert time.monotonic() < deadline, (self.folder / "pulse.log").read_text()
            time.sleep(0.1)
        self.plug_in()
        self._writer.start()

    def plug_in(self) -> None:
        options = ["source_name=fakemic", f"file={self.folder}/mic.fifo", "format=s16le", "rate=16000", "channels=1"]
        self._module = (self.pactl("load-module", "module-pipe-source", *options) or "").strip()
        self.pactl("set-default-source", "fakemic")

    def unplug(self) -> None:
        self._stop.set()
        self._writer.join(timeout=5)
        self.pactl("unload-module", self._module)

    def pactl(self, *words: str, check: bool = True) -> str | None:
        done = subprocess.run(["pactl", *words], env=self.environment, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout if done.returncode == 0 else None

    def say(self, pcm: bytes) -> None:
        with self._lock:
            self._pending += pcm

    def wait_until_said(self) -> None:
        while self._pending:
            time.sleep(0.02)

    def _write(self) -> None:
        with (self.folder / "mic.fifo").open("wb", buffering=0) as pipe:
            due = time.monotonic()
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due += CHUNK_S
                with self._lock:
                    chunk = bytes(self._pending[:CHUNK_BYTES])
                    del self._pending[:CHUNK_BYTES]
                try:
                    pipe.write(chunk + b"\0" * (CHUNK_BYTES - len(chunk)))
                except BrokenPipeError:
                    return

    def stop(self) -> None:
        self._stop.set()
        if self._server is not None:
            self._server.terminate()
            self._server.wait(timeout=10)
