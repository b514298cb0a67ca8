"""What a result needs to be repeated: command, versions, commit."""

import dataclasses
import importlib.metadata
import platform
import shlex
import subprocess
from pathlib import Path
from typing import Any

import lora
from lora.units import JsonObject

RECORDED_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "tokenizers",
    "numpy",
    "soundfile",
    "soxr",
    "rapidfuzz",
    "whisper_normalizer",
)


def package_versions() -> JsonObject:
    """Return the versions that a result may depend on."""
    machine = f"{platform.system()} {platform.machine()}"
    versions: JsonObject = {"python": platform.python_version(), "platform": machine}
    # Not from the installed metadata: a source tree runs without being installed.
    versions["moonshine-lora"] = lora.__version__
    for package in RECORDED_PACKAGES:
        versions[package] = importlib.metadata.version(package)
    return versions


def git_commit() -> str | None:
    """Return the commit of the source tree, with `+changes` where it was edited; `None` outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        top = _git(folder, "rev-parse", "--show-toplevel")
        if not folder.is_relative_to(Path(top) / "src"):
            return None
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (subprocess.CalledProcessError, FileNotFoundError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()


def config_values(config: Any) -> JsonObject:
    """Return a configuration dataclass as JSON values."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def command_of(name: str, config: Any) -> str:
    """Return the command line that repeats a run: every option that is not at its default."""
    words = ["moonshine-lora", name]
    for field in dataclasses.fields(config):
        value = _plain(getattr(config, field.name))
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        if value is None or value == _plain(default):
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    return shlex.join(words)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
