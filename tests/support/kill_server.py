"""Runs commands in forked copies of one process that has imported everything, and stops them at chosen moments.

Reads one request a line from standard input, answers one line each: `keeping.Server` is the other end. A moment is
the n-th thing that is done to files, just before or just after it, a file's n-th byte, or a number of seconds.
"""

import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR
TWICE_S = 0.6  # signals closer together count as one


def import_light() -> None:
    """Import what writes manifests and takes, and no torch."""
    for name in ("runners.build", "runners.shift", "scripts.split", "scripts.merge_manifests", "scripts.umbrella"):
        importlib.import_module(f"lora.{name}")
    for name in ("lora.data.merging", "lora.runners.manifest_tools", "lora_cli.store", "scipy.signal", "soxr"):
        importlib.import_module(name)


def import_everything() -> None:
    for package in ("lora", "lora_cli"):
        module = importlib.import_module(package)
        for found in pkgutil.walk_packages(module.__path__, f"{package}."):
            if not found.name.endswith("__main__") and ".ui" not in found.name:
                importlib.import_module(found.name)
    for name in ("matplotlib.pyplot", "torch.utils.tensorboard", "peft", "accelerate", "optuna", "safetensors.torch"):
        importlib.import_module(name)
    from transformers import MoonshineForConditionalGeneration, MoonshineStreamingForConditionalGeneration  # noqa: F401


class Watch:
    """Counts what the process does to files in `folders`, and acts at one of them."""

    def __init__(self, folders: list[str], act: Callable[[int], None]) -> None:
        self.seen: list[str] = []
        self._folders = folders
        self._act = act
        self._lock = threading.RLock()

    def install(self) -> None:
        """Begin; there is no end but the process's."""
        sys.addaudithook(self._audited)
        fsync, opened, os_open = os.fsync, open, os.open

        def open_then(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            stream = opened(file, mode, *rest, **options)
            if set(mode) & set("wax+"):
                self._note("opened", file)
            return stream

        def os_open_then(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            handle = os_open(path, flags, *rest, **options)
            if flags & WRITING:
                self._note("opened", path)
            return handle

        def fsync_before(handle: Any) -> None:
            self._note("fsync", ".")
            fsync(handle)

        os.fsync, os.open = fsync_before, os_open_then  # type: ignore[assignment]
        import builtins
        import io

        builtins.open = io.open = open_then  # type: ignore[assignment]

    def _audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES:
            self._note(event, arguments[1] if event == "os.rename" else arguments[0])
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            self._note("open", arguments[0])
        elif event == "ctypes.dlsym" and arguments[1] == "renameat2":
            self._note("exchange", ".")

    def _note(self, event: str, path: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        where = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - a Path would be slow, and audited
        if not any(where == folder or where.startswith(folder + os.sep) for folder in self._folders):
            return
        with self._lock:
            self.seen.append(f"{event} {os.path.basename(where)}")  # noqa: PTH119
            number = len(self.seen)
        self._act(number)


def acting(request: dict[str, Any]) -> Callable[[int], None]:
    """Return what is done at each numbered event: nothing, unless it is the one that was asked for."""
    wanted: int = request.get("event", 0)
    numbers: list[int] = request.get("signals", [])

    move: list[str] = request.get("move", [])

    def act(number: int) -> None:
        if number == wanted and move:
            Path(move[0]).rename(move[1])
        elif number == wanted and not numbers:
            os.killpg(0, signal.SIGKILL)
        elif wanted and numbers and 0 <= number - wanted < len(numbers):
            if number > wanted:
                time.sleep(TWICE_S)
            os.kill(os.getpid(), numbers[number - wanted])

    return act


def run_child(request: dict[str, Any]) -> NoReturn:
    os.setsid()
    os.chdir(request["cwd"])
    temporary = request["temporary"]
    os.environ["TMPDIR"] = tempfile.tempdir = temporary
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if request.get("file_bytes") is not None:  # the write that would make a file longer ends the process
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"], request["file_bytes"]))
    watch = Watch([os.path.realpath(request["cwd"]), os.path.realpath(temporary)], acting(request))
    watch.install()
    code = 99
    try:
        code = call(request["argv"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if request.get("events") is not None:
            Path(request["events"]).write_text(json.dumps(watch.seen))
        os._exit(code)


def call(argv: list[str]) -> int:
    if argv[0] in ("open", "teach"):
        return use_voice_app(Path(argv[1]), teach=argv[0] == "teach")
    from lora.scripts.umbrella import main

    return main(argv)


def use_voice_app(folder: Path, *, teach: bool) -> int:
    """Do as the voice app does when a person gives the right text of every take, one after the other."""
    from lora_cli.store import Store

    from lora.errors import LoraError

    try:
        _correct_all(Store, folder, teach=teach)
    except (LoraError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, LoraError) else 1
    return 0


def _correct_all(store_of: Any, folder: Path, *, teach: bool) -> None:
    store = store_of(folder, speaker="me", exclusive=True)
    for entry in sorted(store.entries(), key=lambda entry: entry.id):
        if teach and entry.corrected is None:
            store.correct(entry.id, f"the right words of {entry.id}")
    store.close()


def answer(request: dict[str, Any]) -> dict[str, Any]:
    child = os.fork()
    if not child:
        run_child(request)
    if request.get("seconds") is not None:
        time.sleep(request["seconds"])
        try:
            os.killpg(child, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            os.kill(child, signal.SIGKILL)  # it has not come to its own group yet, or is done and not waited for
    status = os.waitpid(child, 0)[1]
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # what it started
    return {"code": os.waitstatus_to_exitcode(status)}


def main() -> None:
    sys.dont_write_bytecode = True
    if "--light" in sys.argv:
        import_light()
    else:
        import_everything()
        sys.modules["torch"].set_num_threads(1)
    print(json.dumps({"ready": True, "threads": threading.active_count()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
