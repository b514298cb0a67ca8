"""Install the locked packages and this project into the environment that runs this script.

    make sync            # the same as: .venv/bin/python requirements/sync.py

Wheels only, every hash checked, nothing beyond the locks: each lock is complete, so pip resolves nothing.
"""

import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
LOCKED = ["--no-deps", "--only-binary=:all:", "--progress-bar", "off"]


def main() -> int:
    """Install PyTorch, the locks, what this PyTorch build needs, and the project; then check the whole."""
    if sys.prefix == sys.base_prefix:
        print("error: this Python is not a virtual environment. Run `make sync`, which makes one.", file=sys.stderr)
        return 1
    try:
        install_torch()
        print("Installing the locked packages ...", flush=True)
        pip("install", *LOCKED, "--require-hashes", "-r", "base.lock", "-r", "voice.lock", "-r", "dev.lock")
        install_cuda()
        install_project()
        subprocess.run([*PIP, "check"], check=True)
    except subprocess.CalledProcessError as error:
        print(f"error: pip stopped with exit code {error.returncode}; its own message is above.", file=sys.stderr)
        return 1
    print(f"Ready: {sys.prefix}")
    return 0


def install_torch() -> None:
    """Install the build of PyTorch that pip prefers on this machine, if the lock knows its hash.

    With hashes given, pip ranks an index's file, whose hash the index states, above the same version
    in a local folder of wheels (a CPU build, say). So pip chooses first and the hash is checked after.
    """
    lock = (FOLDER / "torch.lock").read_text(encoding="utf-8")
    (pinned,) = re.findall(r"^torch==\S+", lock, flags=re.MULTILINE)
    if installed_version("torch") == pinned.removeprefix("torch=="):
        return
    print(f"Installing {pinned} ...", flush=True)
    with tempfile.TemporaryDirectory() as wheels:
        pip("download", *LOCKED, "--dest", wheels, pinned)
        pip("install", *LOCKED, "--require-hashes", "--no-index", "--find-links", wheels, "-r", "torch.lock")


def installed_version(name: str) -> str | None:
    """Return the public part of an installed version (2.13.0 for 2.13.0+cpu), None where it is absent."""
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def install_cuda() -> None:
    """Install cuda.lock where the installed PyTorch asks for it.

    A CPU build lists no CUDA packages in its metadata, a CUDA build lists them with markers for its
    platforms. So the build that is installed decides, not a guess about the machine.
    """
    needed = needed_packages(metadata.requires("torch") or [], (FOLDER / "cuda.lock").read_text(encoding="utf-8"))
    if needed:
        print(f"Installing what torch {metadata.version('torch')} needs for CUDA ...", flush=True)
        pip("install", *LOCKED, "--require-hashes", "-r", "cuda.lock")


def needed_packages(requirements: list[str], lock: str) -> set[str]:
    """Return the locked packages that `requirements` name and whose markers hold on this platform."""
    from packaging.requirements import Requirement  # installed from base.lock, after this script has started

    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, flags=re.MULTILINE))
    wanted = [Requirement(text) for text in requirements]
    return {item.name for item in wanted if item.marker is None or item.marker.evaluate({"extra": ""})} & locked


def install_project() -> None:
    """Install this project, and every workspace member, editable, by the locked build backend."""
    members = [ROOT, *(path.parent for path in sorted(ROOT.glob("packages/*/pyproject.toml")))]
    editables = [word for member in members for word in ("--editable", str(member))]
    pip("install", "--no-deps", "--no-build-isolation", *editables)


def pip(*words: str) -> None:
    """Run pip beside the locks, with its errors only."""
    subprocess.run([*PIP, "-qq", *words], check=True, cwd=FOLDER)


if __name__ == "__main__":
    sys.exit(main())
