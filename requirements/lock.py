"""Write the lock files beside this script: exact versions with hashes, without addresses.

    make lock            # the same as: .venv/bin/python requirements/lock.py

uv resolves `pyproject.toml` and the workspace's members once for all platforms and Python versions. The
result is split so that an install can choose its PyTorch build:

    torch.lock   PyTorch alone, with the hashes of every build of it that this machine can see
    base.lock    what the package needs, without PyTorch
    voice.lock   what the members in packages/ add: the voice app
    dev.lock     what the `dev` extra adds
    cuda.lock    what a CUDA build of PyTorch needs beside it; `sync.py` installs it where it is needed

Each file is complete: pip installs them with `--require-hashes --no-deps`, and `pip check` must agree.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
CUDA_NAME = re.compile(r"^(nvidia-|cuda-|triton$)")
HEADER = "# Written by `make lock`. Install with `make sync`.\n"

Lock = dict[str, str]
"""Requirement (`name==version ; marker`) to its hash lines, one text for each."""


def main() -> int:
    """Resolve, split and write the lock files."""
    members = member_requirements()
    package = resolve([], [])
    app = resolve([], members)
    everything = resolve(["--extra", "dev"], members)
    torch = {key: value for key, value in package.items() if name_of(key) == "torch"}
    cuda = {key: value for key, value in package.items() if CUDA_NAME.match(name_of(key))}
    base = {key: value for key, value in package.items() if key not in torch and key not in cuda}
    voice = {key: value for key, value in app.items() if key not in package}
    dev = {key: value for key, value in everything.items() if key not in app}
    for what, added, kept in (("a member", voice, package), ("the dev extra", dev, app)):
        clashes = {name_of(key) for key in added} & {name_of(key) for key in kept}
        if clashes:
            print(f"error: {what} changes versions of {sorted(clashes)}; bound them in pyproject.toml.")
            return 1
    (pinned,) = torch
    torch[pinned] = with_hashes(torch[pinned], known_hashes(pinned) | local_build_hashes(pinned))
    for name, lock in {"torch": torch, "base": base, "voice": voice, "dev": dev, "cuda": cuda}.items():
        write_lock(FOLDER / f"{name}.lock", lock)
    return 0


def member_requirements() -> list[str]:
    """Return what the workspace's members need, this project itself left out."""
    paths = sorted(ROOT.glob("packages/*/pyproject.toml"))
    needed = [item for path in paths for item in tomllib.loads(path.read_text("utf-8"))["project"]["dependencies"]]
    return [item for item in needed if name_of(item) != "moonshine-lora"]


def resolve(extra: list[str], members: list[str]) -> Lock:
    """Return uv's universal resolution of pyproject.toml and `members`; only packages that have wheels."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-build", "--no-header", "--no-annotate", "--upgrade"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--constraints", str(FOLDER / "constraints.txt")]
    command += [*extra, str(ROOT / "pyproject.toml"), "-"]
    output = subprocess.run(
        command, check=True, input="\n".join(members), stdout=subprocess.PIPE, text=True, cwd=ROOT
    ).stdout
    lock: Lock = {}
    for block in output.replace("\\\n", "\n").strip().split("\n"):
        line = block.strip()
        if line.startswith("--hash="):
            lock[next(reversed(lock))] += f"{line}\n"
        elif line:
            lock[line] = ""
    return lock


def known_hashes(requirement: str) -> set[str]:
    """Return the hashes that torch.lock already has for `requirement`: builds seen on other machines."""
    path = FOLDER / "torch.lock"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return set(re.findall(r"--hash=sha256:[0-9a-f]{64}", text)) if requirement in text else set()


def local_build_hashes(requirement: str) -> set[str]:
    """Return the hash of the build of `requirement` that pip itself takes on this machine.

    pip may be configured with a folder of wheels (a CPU build, say) that uv does not look at.
    """
    pinned = requirement.split(";")[0].strip()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", folder, pinned], check=True)
        return {f"--hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in Path(folder).iterdir()}


def with_hashes(lines: str, more: set[str]) -> str:
    """Return the hash lines with `more` added, sorted, each once."""
    return "".join(f"{line}\n" for line in sorted({*lines.split(), *more}))


def name_of(requirement: str) -> str:
    """Return the project's name in `name==version ; marker`."""
    return re.split(r"[=<>!~ ;\[]", requirement, maxsplit=1)[0].lower()


def write_lock(path: Path, lock: Lock) -> None:
    """Write one lock file in pip's requirements format."""
    blocks = [" \\\n    ".join([key, *sorted(lock[key].split())]) for key in sorted(lock)]
    path.write_text(HEADER + "\n".join(blocks) + "\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {len(lock)} packages")


if __name__ == "__main__":
    sys.exit(main())
