"""The recorder: nothing is cut, nothing is lost."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lora_cli.levels import Meter
from lora_cli.ports import Block
from lora_cli.recorder import Recorder
from lora_cli.vad import Endpoint, SileroVad, model_path
from lora_cli.wav import WavWriter
from voice_fakes import LoudnessDetector, tone_pcm

from lora.data.synthesis import SpeechRequest, synthesize
from lora.units import Wave

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


@pytest.mark.parametrize("reopened", [False, True])
def test_the_pre_roll_of_a_take_is_of_that_take_alone(tmp_path: Path, tone: bytes, reopened: bool) -> None:
    """After a take, or a microphone that was opened anew, there is nothing from before until it is heard."""
    recorder = Recorder(None, pre_roll_s=0.5)
    for block in blocks_of(tone):
        recorder.push(block)
    if reopened:
        recorder.opened(16_000)
    else:
        recorder.start("first", tmp_path / "first.wav", at=1.0)
        recorder.close_take()
    for block in blocks_of(tone)[:4]:
        recorder.push(block)
    take = recorder.start("second", tmp_path / "second.wav", at=2.0)
    assert take.pre_roll_s == pytest.approx(4 * 0.032)
    assert bytes(take.pcm) == tone[: 4 * 2 * BLOCK]


def test_no_pre_roll_is_lost_to_what_an_earlier_take_had(tmp_path: Path, tone: bytes) -> None:
    recorder = Recorder(None, pre_roll_s=0.5)
    for name in ("first", "second", "third"):
        for block in blocks_of(tone):
            recorder.push(block)
        take = recorder.start(name, tmp_path / f"{name}.wav", at=0.0)
        assert take.seconds == pytest.approx(0.5, abs=0.032)
        recorder.close_take()


def test_a_take_tells_how_often_samples_were_lost_before_it_and_in_it(tmp_path: Path, tone: bytes) -> None:
    blocks = blocks_of(tone)
    recorder = Recorder(None, pre_roll_s=0.5)
    for number, block in enumerate(blocks):
        recorder.push(replace(block, lost=number == len(blocks) - 2))
    take = recorder.start("t", tmp_path / "t.wav", at=1.0)
    assert take.dropped == 1
    for number, block in enumerate(blocks):
        recorder.push(replace(block, lost=number in (3, 7)))
    assert take.dropped == 3
    assert take.faults() == ["3 gap(s) in the recording: the machine was too busy for all of it."]


class Hears:
    """A detector that keeps what it is given."""

    def __init__(self) -> None:
        self.pieces: list[Wave] = []

    def reset(self) -> None:
        self.pieces.clear()

    def feed(self, wave: Wave) -> list[float]:
        self.pieces.append(wave)
        return []


def test_voice_activity_hears_every_take_from_its_start_at_16_khz_whatever_the_microphone_has(tmp_path: Path) -> None:
    detector = Hears()
    recorder = Recorder(detector, pre_roll_s=0.0)
    recorder.opened(48_000)
    tone = tone_pcm(1.0, rate_hz=48_000)
    for name in ("first", "second"):
        recorder.start(name, tmp_path / f"{name}.wav", at=0.0)
        for block in blocks_of(tone):
            recorder.push(block)
        recorder.close_take()
        heard = np.concatenate(detector.pieces)
        assert len(heard) == pytest.approx(16_000, abs=400)  # the resampler holds back a little
        spectrum = np.abs(np.fft.rfft(heard[:15_600] * np.hanning(15_600)))
        assert spectrum.argmax() * 16_000 / 15_600 == pytest.approx(440, abs=2)
        assert float(np.abs(heard[1_000:15_000]).max()) == pytest.approx(0.25, rel=0.02)


def test_nothing_of_a_take_is_heard_in_the_next(tmp_path: Path) -> None:
    """A resampler holds some milliseconds back."""
    detector = Hears()
    recorder = Recorder(detector, pre_roll_s=0.0)
    recorder.opened(48_000)
    for name, pcm in (("loud", tone_pcm(0.5, rate_hz=48_000)), ("silent", bytes(2 * 24_000))):
        recorder.start(name, tmp_path / f"{name}.wav", at=0.0)
        for block in blocks_of(pcm):
            recorder.push(block)
        recorder.close_take()
    assert not np.concatenate(detector.pieces).any()


def test_every_take_begins_without_the_speech_of_the_last(tmp_path: Path, tone: bytes) -> None:
    recorder = Recorder(LoudnessDetector(), pre_roll_s=0.0, endpoint=lambda: Endpoint(silence_s=0.3))
    recorder.start("first", tmp_path / "first.wav", at=0.0)
    for block in blocks_of(tone):
        recorder.push(block)
    recorder.close_take()
    take = recorder.start("second", tmp_path / "second.wav", at=2.0)
    pushed = [recorder.push(block) for block in blocks_of(bytes(32_000))]
    assert not any(item.speech_ended for item in pushed)
    assert (take.speech_at, recorder.speech) == (None, False)


def test_a_take_that_silence_ended_waits_for_no_post_roll(tmp_path: Path, tone: bytes) -> None:
    for reason, blocks in (("silence", 1), ("release", 4)):
        recorder = Recorder(None, pre_roll_s=0.0, post_roll_s=0.12)
        recorder.start(reason, tmp_path / f"{reason}.wav", at=0.0)
        recorder.finish(reason, at=0.0)  # type: ignore[arg-type]
        finished = [recorder.push(block).finished for block in blocks_of(tone)[:blocks]]
        assert [take is not None for take in finished] == [False] * (blocks - 1) + [True]


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


def test_between_the_thresholds_neither_speech_nor_silence_goes_on() -> None:
    """0.35 and 0.5: a breath in the middle of a word must not end the take, nor begin one."""
    endpoint = Endpoint(silence_s=0.32, arm_s=0.16)
    for probability in [0.4] * 50 + [0.9] * 5 + [0.1] * 9:
        endpoint.add(probability)
    assert endpoint.first_speech_frame == 50
    for probability in [0.35, 0.42, 0.499] * 20:
        endpoint.add(probability)
    assert (endpoint.speech_frames, endpoint.silent_frames, endpoint.ended) == (5, 9, False)
    endpoint.add(0.349)
    assert endpoint.ended
    endpoint.add(0.5)
    assert (endpoint.speech_frames, endpoint.silent_frames, endpoint.ended) == (6, 0, False)


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


def test_silero_tells_speech_from_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 16_000).astype(np.float32)
    assert max(SileroVad().feed(noise)) < 0.5
    (speech,) = synthesize([SpeechRequest("three seven one")])
    assert np.median(SileroVad().feed(speech)) > 0.5


def test_silero_hears_each_frame_behind_the_end_of_the_one_before() -> None:
    """The model's own calling convention, frame by frame: 64 samples of context, the state, and the rate."""
    import onnxruntime

    (speech,) = synthesize([SpeechRequest("four nine")])
    session = onnxruntime.InferenceSession(str(model_path()), providers=["CPUExecutionProvider"])
    state, heard, wanted = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    for at in range(0, len(speech) - 511, 512):
        frame = np.concatenate([heard, speech[at : at + 512]])
        probability, state = session.run(None, {"input": frame[None], "state": state, "sr": np.array(16_000)})
        heard = frame[-64:]
        wanted.append(float(probability[0, 0]))
    assert max(wanted) > 0.9
    assert SileroVad().feed(speech) == pytest.approx(wanted, abs=1e-5)


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
