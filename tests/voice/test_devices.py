"""Microphones by name, and what their errors say; a stand-in for PortAudio."""

import pytest
from lora_cli import devices
from lora_cli.portaudio import PortAudioUse, explain_portaudio


class FakePortAudio:
    """Reads the plugged devices when it starts, as PortAudio does."""

    class default:  # noqa: N801
        device = (0, 0)

    def __init__(self, *plugged: str) -> None:
        self.plugged = list(plugged)
        self._initialize()

    def _initialize(self) -> None:
        self._known = [{"name": name, "max_input_channels": 1, "default_samplerate": 48_000.0} for name in self.plugged]

    def _terminate(self) -> None:
        self._known = []

    def query_devices(self) -> list[dict[str, object]]:
        return self._known


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> FakePortAudio:
    fake = FakePortAudio("Built-in", "USB webcam")
    monkeypatch.setattr(devices, "import_sounddevice", lambda: fake)
    monkeypatch.setattr(devices, "PORTAUDIO_USE", PortAudioUse())
    return fake


def test_a_microphone_is_found_by_a_part_of_its_name(portaudio: FakePortAudio) -> None:
    assert devices.find_microphone("webcam").name == "USB webcam"
    assert devices.find_microphone(None).name == "Built-in"


def test_a_microphone_that_was_plugged_in_later_is_found(portaudio: FakePortAudio) -> None:
    portaudio.plugged.append("Headset")
    assert devices.find_microphone("headset").name == "Headset"


def test_nothing_is_looked_for_anew_while_a_stream_is_open(portaudio: FakePortAudio) -> None:
    portaudio.plugged.append("Headset")
    devices.PORTAUDIO_USE.claim()
    assert [item.name for item in devices.list_microphones()] == ["Built-in", "USB webcam"]
    devices.PORTAUDIO_USE.release()
    assert len(devices.list_microphones()) == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [("b", "fits Built-in, USB webcam"), ("webcan", "no such microphone; there is Built-in, USB webcam")],
)
def test_a_name_that_fits_none_or_several_says_what_there_is(portaudio: FakePortAudio, name: str, said: str) -> None:
    with pytest.raises(devices.MicError, match=said):
        devices.find_microphone(name)


def test_without_a_microphone_it_says_what_to_do(portaudio: FakePortAudio) -> None:
    portaudio.plugged.clear()
    with pytest.raises(devices.MicError, match="Plug one in"):
        devices.find_microphone(None)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("Error opening RawInputStream: Device unavailable [PaErrorCode -9985]", "busy. Another program holds"),
        ("Error opening RawInputStream: Invalid device [PaErrorCode -9996]", "no longer there. Plug it in"),
        ("Error opening RawInputStream: Invalid sample rate [PaErrorCode -9997]", "takes neither 16 kHz nor"),
        ("Unanticipated host error", "cannot be opened"),
    ],
)
def test_every_error_of_portaudio_says_what_to_do(error: str, said: str) -> None:
    assert said in explain_portaudio("webcam", RuntimeError(error))
