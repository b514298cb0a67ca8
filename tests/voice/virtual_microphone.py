"""A virtual microphone: PulseAudio with a pipe source that the test writes speech into.

A pipe source gives blocks only while somebody writes, so a thread writes silence on an absolute clock and
speech on cue; the instant of every sample is known.
"""

import ctypes.util
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

CHUNK_S = 0.02
CHUNK_BYTES = 640
DEADLINE_S = 300.0
"""How long anything may take on a machine that is busy with other work; nothing waits for it when all is well."""


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
        self._said = 0
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._module = ""

    @staticmethod
    def missing() -> list[str]:
        """Return what is not installed."""
        programs = [name for name in ("pulseaudio", "pactl", "tmux") if shutil.which(name) is None]
        return programs + ([] if ctypes.util.find_library("portaudio") else ["libportaudio2"])

    def start(self) -> None:
        (self.folder / "pulse").mkdir(parents=True)
        words = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disallow-exit", "--use-pid-file=no"]
        words += ["-L", f"module-native-protocol-unix socket={self.folder}/pulse/native auth-anonymous=1"]
        words += ["-L", "module-null-sink sink_name=vspk", "-L", "module-always-sink"]
        with (self.folder / "pulse.log").open("wb") as log:
            self._server = subprocess.Popen(
                words, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + DEADLINE_S
        while self.pactl("info", check=False) is None:
            assert self._server.poll() is None, (self.folder / "pulse.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "pulse.log").read_text()
            time.sleep(0.1)
        options = [f"file={self.folder}/mic.fifo", "format=s16le", "rate=16000", "channels=1"]
        loaded = self.pactl("load-module", "module-pipe-source", "source_name=fakemic", *options)
        self._module = (loaded or "").strip()
        self.pactl("set-default-source", "fakemic")
        self._writer.start()

    def plug_in_another(self, name: str) -> None:
        """Add a microphone that hears silence, and make it the default one."""
        self.pactl("load-module", "module-null-source", f"source_name={name}")
        self.pactl("set-default-source", name)

    def unplug(self) -> None:
        """Take `fakemic` away."""
        self._stop.set()
        self._writer.join(timeout=5)
        self.pactl("unload-module", self._module)

    def pactl(self, *words: str, check: bool = True) -> str | None:
        done = subprocess.run(["pactl", *words], env=self.environment, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout if done.returncode == 0 else None

    def say(self, pcm: bytes) -> None:
        """Speak from the next chunk on."""
        with self._changed:
            self._pending += pcm

    @property
    def said_s(self) -> float:
        """How much of what was given to `say` has been spoken, in seconds."""
        return self._said / 32_000

    def wait_until_said(self, seconds: float) -> None:
        """Return once so much was spoken."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.said_s >= seconds, DEADLINE_S)

    def _write(self) -> None:
        with (self.folder / "mic.fifo").open("wb", buffering=0) as pipe:
            due = time.monotonic()
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due += CHUNK_S
                with self._changed:
                    chunk = bytes(self._pending[:CHUNK_BYTES])
                    del self._pending[:CHUNK_BYTES]
                try:
                    pipe.write(chunk + b"\0" * (CHUNK_BYTES - len(chunk)))
                except BrokenPipeError:
                    return
                with self._changed:
                    self._said += len(chunk)
                    self._changed.notify_all()

    def stop(self) -> list[str]:
        """End the server, then whatever else still lives in its folder; return what had to be killed."""
        self._stop.set()
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        deadline = time.monotonic() + 60
        while self._users() and time.monotonic() < deadline:
            time.sleep(0.1)
        left = self._users()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return list(left.values())

    def _users(self) -> dict[int, str]:
        """Return the processes that were started with this server's environment, and their command lines."""
        mark = f"XDG_RUNTIME_DIR={self.folder}".encode()
        found: dict[int, str] = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue  # it has just ended, or is somebody else's
        return found
