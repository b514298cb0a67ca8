"""What the command line takes, where files go, and which key does what."""

import getpass
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from lora.bounded import parse_yaml
from lora.config import DeviceName, option
from lora.errors import ConfigError
from lora.files import sha256_bytes
from lora_cli.core import CoreSettings
from lora_cli.engine import ModelChoice
from lora_cli.history import KEEP_TAKES, Retention
from lora_cli.session import Rules
from lora_cli.store import Store

APP_FOLDER = "moonshine-lora"


@dataclass(frozen=True, kw_only=True)
class VoiceOptions:
    """Options of `moonshine`."""

    file: list[Path] = option(default_factory=list, help="no app: print the text of these audio files or folders")
    json: bool = option(False, help="with --file: print the JSON document of run-stt instead of texts")
    record_only: bool = option(False, help="no app, no model: record one take to a WAV file and print its path")
    model_id: str = option("builtin:digits", help="hub id, local folder or builtin:digits")
    adapter_dir: list[Path] = option(default_factory=list, help="lora_adapter folders to switch between")
    mic: str | None = option(None, help="microphone by name or part of it (see `moonshine devices`)")
    device: DeviceName = option("auto", help="where the model computes; auto takes CUDA, then MPS, then the CPU")
    tokens_per_second: float | None = option(None, help="decode limit; the adapter's own, or 6.5, unless given")
    speaker: str = option("", help="speaker id of what you teach; your user name unless given")
    prompts: Path | None = option(
        None, help="what to read aloud when teaching: a text file of sentences, or of single words to mix"
    )
    prompt_count: int = option(40, help="prompts in one sitting")
    guardrail_manifest: Path | None = option(
        None, help="manifest that adapting must not make worse; synthetic digits unless given"
    )
    adapt_config: Path | None = option(None, help="YAML file with further options of `moonshine-lora experiment`")
    data_dir: Path | None = option(None, help="where takes and training data go")
    keys: Path | None = option(
        None, help="YAML file that rebinds keys; keys.yaml in the configuration folder unless given"
    )
    history: bool = option(True, help="keep recordings and texts after the app ends")
    keep_takes: int = option(KEEP_TAKES, help="how many takes the history keeps; older recordings are removed")
    keep_days: int | None = option(None, help="remove takes older than this; any age unless given")
    listen: bool = option(True, help="keep the microphone open between takes, so that nothing is cut (pre-roll)")
    pre_roll_seconds: float = option(0.5, help="audio kept from before the key press while listening")
    stop_on_silence: bool = option(True, help="end a tapped take after silence that follows speech")
    silence_seconds: float = option(1.0, help="how long that silence is")
    max_seconds: float = option(60.0, help="hard cap on a take")

    def check(self) -> None:
        """Refuse values out of range, all at once.

        Raises:
            ConfigError: one problem a value.
        """
        ranges = [
            ("pre_roll_seconds", 0.0, 10.0),
            ("silence_seconds", 0.2, 30.0),
            ("max_seconds", 1.0, 600.0),
            ("prompt_count", 1, 1000),
            ("keep_takes", 1, 100_000),
            ("keep_days", 1, 36_500),
        ]
        problems = [
            f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected {low:g} to {high:g}"
            for name, low, high in ranges
            if getattr(self, name) is not None and not low <= getattr(self, name) <= high
        ]
        if self.json and not self.file:
            problems.append("--json: belongs to --file")
        if self.file and self.record_only:
            problems.append("--record-only: does not go with --file")
        if self.record_only and not self.history:
            problems.append("--record-only: writes a recording to keep; it does not go with --no-history")
        problems += [f"--adapter-dir {path}: no such folder" for path in self.adapter_dir if not path.is_dir()]
        if problems:
            raise ConfigError("moonshine cannot start", problems)

    @property
    def model_choice(self) -> ModelChoice:
        """Which model and adapters to load."""
        names = adapter_names(self.adapter_dir)
        adapters = tuple(zip(names, self.adapter_dir, strict=True))
        return ModelChoice(self.model_id, adapters, self.device, self.tokens_per_second)

    @property
    def core_settings(self) -> CoreSettings:
        """How the core records."""
        rules = Rules(max_s=self.max_seconds, stop_on_silence=self.stop_on_silence)
        return CoreSettings(rules, self.mic, self.listen, self.pre_roll_seconds, self.silence_seconds)

    @property
    def folder(self) -> Path:
        """Where data go."""
        return self.data_dir or data_home() / APP_FOLDER

    def open_store(self) -> Store:
        """Open the store, for this process alone."""
        return Store(
            self.folder,
            speaker=self.speaker or getpass.getuser(),
            keep_history=self.history,
            retention=Retention(self.keep_takes, self.keep_days),
            exclusive=True,
        )


def data_home() -> Path:
    """Return the folder of users' data on this system."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")


def config_home() -> Path:
    """Return the folder of users' configuration on this system."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def adapter_names(folders: list[Path]) -> list[str]:
    """Return a short, unique name for each adapter: its run's folder, numbered where two are the same."""
    names: list[str] = []
    for folder in folders:
        resolved = folder.resolve()
        base = resolved.parent.name if resolved.name == "lora_adapter" else resolved.name
        base = base or sha256_bytes(str(resolved).encode())[:6]
        name, number = base, 1
        while name in names or name == "base":
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return names


DEFAULT_KEYS: dict[str, tuple[str, ...]] = {
    "talk": ("space",),
    "discard": ("escape",),
    "microphone": ("m",),
    "devices": ("f2",),
    "adapter": ("tab",),
    "correct": ("c",),
    "teach": ("t",),
    "adapt": ("a",),
    "blind": ("b",),
    "left": ("1",),
    "right": ("2",),
    "same": ("0",),
    "again": ("r",),
    "play": ("p",),
    "copy": ("y",),
    "delete": ("delete",),
    "help": ("question_mark", "f1"),
    "quit": ("q", "ctrl+q"),
    "accept": ("enter",),
    "skip": ("s",),
}
"""Action to its keys, in Textual's names."""


def read_keys(path: Path | None) -> dict[str, tuple[str, ...]]:
    """Return the key bindings: the defaults, and the person's file over them.

    The file maps an action to a key or a list of keys: `talk: enter`.

    Raises:
        ConfigError: an unknown action, a key that is bound twice, or a file that is not such a mapping.
    """
    where = path or config_home() / APP_FOLDER / "keys.yaml"
    if path is None and not where.is_file():
        return dict(DEFAULT_KEYS)
    try:
        given = parse_yaml(where.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: cannot be read as YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: expected a mapping of actions to keys.")
    problems = [
        f"{action}: no such action; there is {', '.join(DEFAULT_KEYS)}"
        for action in given
        if action not in DEFAULT_KEYS
    ]
    keys = dict(DEFAULT_KEYS)
    for action, value in given.items():
        listed = value if isinstance(value, list) else [value]
        keys[str(action)] = tuple(str(key) for key in listed)
    owners: dict[str, str] = {}
    for action, bound in keys.items():
        for key in bound:
            if key in owners and action in DEFAULT_KEYS:
                problems.append(f"{key}: bound to {owners[key]} and to {action}")
            owners.setdefault(key, action)
    if problems:
        raise ConfigError(f"{where}: {len(problems)} fault(s)", problems)
    return keys
