"""The recorder: nothing is cut, nothing is lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lora_cli.levels import Meter
from lora_cli.ports import Block
from lora_cli.recorder import Recorder
from lora_cli.vad import Endpoint, SileroVad
from lora_cli.wav import WavWriter
from voice_fakes import LoudnessDetector

BLOCK = 512


def blocks_of(pcm: bytes, start: float = 0.0) -> list[Block]:
    size = 2 * BLOCK
    return [Block(pcm[at : at + size], start + (at // size + 1) * 0.032) for at in range(0, len(pcm), size)]


def test_the_audio_before_the_key_press_is_in_the_take(tmp_path: Path, tone: bytes) -> None:
    recorder = Recorder(None, pre_roll_s=0.5)
    for block in blocks_of(tone):
        recorder.push(block)
    take = recorder.start("t", tmp_path / "t.wav", at=1.0)
    assert take.pre_roll_s == pytest.approx(0.5, abs=0.032)
    assert bytes(take.pcm) == tone[-len(take.pcm) :]


def test_what_was_spoken_just_before_the_stop_is_still_taken(tmp_path: Path, tone: bytes) -> None:
    recorder = Recorder(None, pre_roll_s=0.0, post_roll_s=0.12)
    take = recorder.start("t", tmp_path / "t.wav", at=0.0)
    recorder.finish("key", at=0.0)
    finished = [recorder.push(block).finished for block in blocks_of(tone)[:8]]
    assert finished[3] is take  # the fourth block completes 0.128 s
    assert take.seconds == pytest.approx(0.128)


def test_the_file_holds_exactly_what_came_in(tmp_path: Path, tone: bytes) -> None:
    recorder = Recorder(None)
    recorder.start("t", tmp_path / "t.wav", at=0.0)
    for block in blocks_of(tone):
        recorder.push(block)
    recorder.close_take()
    samples, rate = soundfile.read(tmp_path / "t.wav", dtype="int16")
    assert rate == 16_000
    assert samples.tobytes() == tone


def test_a_discarded_take_leaves_no_file(tmp_path: Path, tone: bytes) -> None:
    recorder = Recorder(None)
    recorder.start("t", tmp_path / "t.wav", at=0.0)
    recorder.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_recording_never_overwrites_another(tmp_path: Path) -> None:
    WavWriter(tmp_path / "t.wav", 16_000).close()
    with pytest.raises(FileExistsError):
        WavWriter(tmp_path / "t.wav", 16_000)


WRITES_UNTIL_KILLED = """
import sys, time
from pathlib import Path
from lora_cli.wav import WavWriter
writer = WavWriter(Path(sys.argv[1]), 16_000)
block = bytes(range(256)) * 4
while True:
    writer.write(block)
    print(writer.data_bytes, flush=True)
    time.sleep(0.005)
"""


def test_a_process_killed_while_recording_leaves_a_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "t.wav"
    process = subprocess.Popen([sys.executable, "-c", WRITES_UNTIL_KILLED, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    known = 0
    for _ in range(60):
        known = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    samples, _ = soundfile.read(path, dtype="int16")
    assert len(samples) * 2 >= known


def test_silence_counts_only_after_speech() -> None:
    endpoint = Endpoint(silence_s=1.0, arm_s=0.16)
    for _ in range(200):
        endpoint.add(0.0)
    assert not endpoint.ended
    for probability in [0.9] * 5 + [0.1] * 31:  # 0.16 s of speech, then 0.992 s of silence
        endpoint.add(probability)
    assert not endpoint.ended
    endpoint.add(0.1)
    assert endpoint.ended


def test_a_click_does_not_arm_the_stop_on_silence() -> None:
    endpoint = Endpoint(silence_s=0.5, arm_s=0.16)
    for probability in [0.9] * 4 + [0.0] * 100:
        endpoint.add(probability)
    assert not endpoint.ended


def test_a_take_reports_the_end_of_speech_once(tmp_path: Path, tone: bytes) -> None:
    recorder = Recorder(LoudnessDetector(), endpoint=lambda: Endpoint(silence_s=0.3))
    recorder.start("t", tmp_path / "t.wav", at=0.0)
    pushed = [recorder.push(block) for block in blocks_of(tone + b"\0" * 32_000)]
    assert [item.speech_ended for item in pushed].count(True) == 1


def test_a_detector_that_comes_late_hears_the_running_take_from_its_start(tmp_path: Path, tone: bytes) -> None:
    recorder = Recorder(None, endpoint=lambda: Endpoint(silence_s=0.3))
    take = recorder.start("t", tmp_path / "t.wav", at=0.0)
    for block in blocks_of(tone):
        recorder.push(block)
    recorder.set_detector(LoudnessDetector())
    assert take.speech_at == pytest.approx(0.032, abs=0.033)


def test_silero_tells_speech_from_noise(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 16_000).astype(np.float32)
    assert max(SileroVad().feed(noise)) < 0.5


def test_silero_does_not_depend_on_how_the_audio_is_cut() -> None:
    wave = np.random.default_rng(1).normal(0, 0.1, 8_192).astype(np.float32)
    whole, cut = SileroVad(), SileroVad()
    pieces = [value for at in range(0, len(wave), 300) for value in cut.feed(wave[at : at + 300])]
    assert pieces == pytest.approx(whole.feed(wave), abs=1e-6)


def test_the_meter_reads_a_sine_wave_and_counts_clipping(tone: bytes) -> None:
    meter = Meter()
    meter.add(tone)
    level = meter.take()
    assert level.peak_db == pytest.approx(-12.04, abs=0.01)
    assert level.rms_db == pytest.approx(-15.05, abs=0.01)
    assert not level.clipping
    meter.add(np.full(3, -32_768, dtype="<i2").tobytes())
    assert meter.take().clipping


def test_blocks_are_written_in_a_fraction_of_their_length(tmp_path: Path, tone: bytes) -> None:
    recorder = Recorder(None)
    recorder.start("t", tmp_path / "t.wav", at=0.0)
    started = time.process_time()
    for block in blocks_of(tone * 10):
        recorder.push(block)
    assert time.process_time() - started < 5.0
