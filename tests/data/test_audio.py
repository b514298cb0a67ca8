import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.data import audio
from lora.data.audio import (
    PreprocessConfig,
    decode_audio,
    encode_flac,
    prepare_wave,
    read_header,
    read_wave,
    resample,
    wave_sha256,
)
from lora.data.truncation import count_mp3_samples, cut_short
from lora.errors import AudioError
from lora.units import Wave

CONFIG = PreprocessConfig()


def tone(seconds: float = 0.5, rate: int = 16_000, level: float = 0.2, hz: float = 440) -> Wave:
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encode(wave: Wave, rate: int = 16_000, format: str = "WAV", subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def rms(wave: Wave) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def test_channels_are_averaged() -> None:
    left, right = tone(level=0.4), np.full(8000, 0.1, dtype=np.float32)
    samples, rate = decode_audio(encode(np.stack([left, right], axis=1), subtype="FLOAT"), name="a.wav")
    assert (rate, samples.dtype, samples.shape) == (16_000, np.float32, (8000,))
    np.testing.assert_allclose(samples, (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize(
    ("format", "subtype", "tolerance"),
    [("WAV", "PCM_16", 1e-4), ("WAV", "ULAW", 0.01), ("FLAC", "PCM_16", 1e-4), ("WAV", "PCM_U8", 0.01)],
)
def test_samples_survive_each_format(format: str, subtype: str, tolerance: float) -> None:
    samples, _ = decode_audio(encode(tone(), format=format, subtype=subtype), name="a")
    np.testing.assert_allclose(samples, tone(), atol=tolerance)


@pytest.mark.parametrize(("format", "subtype"), [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_lossy_formats_decode_to_the_same_length_and_level(format: str, subtype: str) -> None:
    samples, rate = decode_audio(encode(tone(2.0), format=format, subtype=subtype), name="a")
    assert (rate, len(samples)) == (16_000, 32_000)
    assert rms(samples) == pytest.approx(rms(tone(2.0)), rel=0.05)


def test_eight_kilohertz_becomes_sixteen_and_keeps_its_pitch() -> None:
    wave = prepare_wave(tone(1.0, rate=8000), 8000, CONFIG, name="a")
    assert wave.shape == (16_000,)
    spectrum = np.abs(np.fft.rfft(wave))
    assert int(spectrum.argmax()) == 440  # one bin a hertz


def test_sixteen_kilohertz_is_not_touched_by_resampling() -> None:
    wave = tone()
    assert resample(wave, 16_000) is wave


@pytest.mark.parametrize("level", [0.001, 0.05, 0.9])
def test_every_wave_comes_out_at_one_level(level: float) -> None:
    wave = prepare_wave(tone(level=level), 16_000, CONFIG, name="a")
    assert rms(wave) == pytest.approx(0.075, rel=1e-6)
    assert wave.dtype == np.float32


def test_a_wave_with_a_high_peak_is_kept_below_the_limit_instead() -> None:
    click = tone(level=0.001)
    click[100] = 0.5
    wave = prepare_wave(click, 16_000, CONFIG, name="a")
    assert float(np.abs(wave).max()) == pytest.approx(0.99, rel=1e-6)
    assert rms(wave) < 0.075


def test_the_level_is_a_setting() -> None:
    assert rms(prepare_wave(tone(), 16_000, PreprocessConfig(target_rms=0.02), name="a")) == pytest.approx(
        0.02, rel=1e-6
    )


def test_the_same_input_gives_the_same_bytes() -> None:
    waves = [prepare_wave(tone(rate=11_025), 11_025, CONFIG, name="a") for _ in range(2)]
    assert wave_sha256(waves[0]) == wave_sha256(waves[1])
    assert wave_sha256(waves[0]) != wave_sha256(waves[0][:-1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_counted_and_refused(bad: float) -> None:
    wave = tone()
    wave[7:9] = bad
    with pytest.raises(AudioError, match=r"train\.jsonl:17: 2 of 8000 samples are NaN or infinite"):
        prepare_wave(wave, 16_000, CONFIG, name="train.jsonl:17")


def test_samples_beyond_any_audio_are_refused_not_turned_into_nan() -> None:
    wave = prepare_wave(tone(level=32768.0), 16_000, CONFIG, name="integers as floats")
    assert rms(wave) == pytest.approx(0.075, rel=1e-5)
    square = np.tile(np.repeat(np.array([3.4e38, -3.4e38], dtype=np.float32), 40), 100)
    with pytest.raises(AudioError, match="too large to be audio"):  # resampling overshoots at every edge
        prepare_wave(square, 8000, CONFIG, name="a")


@pytest.mark.parametrize("seconds", [0.1, 0.5, 20.0])
@pytest.mark.parametrize("value", [1e38, -1e38, 1e6, 100.0])
def test_a_damaged_sample_is_refused_and_not_made_the_measure_of_the_rest(
    tmp_path: Path, seconds: float, value: float
) -> None:
    wave = tone(seconds)
    wave[len(wave) // 2] = value
    (tmp_path / "a.wav").write_bytes(encode(wave, subtype="FLOAT"))
    with pytest.raises(AudioError, match=r"a\.wav: (samples up to|a sample of) "):
        read_wave(tmp_path / "a.wav", CONFIG)


@pytest.mark.parametrize("peak", [1.0, 3.0, 30.0, 32768.0])
def test_a_loud_float_recording_is_read(peak: float) -> None:
    """Quiet speech with a loud word, over full scale by a few decibels, or on the scale of integers."""
    wave = np.concatenate([tone(2.0, level=peak / 50), tone(0.3, level=peak), tone(2.0, level=peak / 50)])
    wave = prepare_wave(wave, 16_000, CONFIG, name="a")
    assert rms(wave) == pytest.approx(0.075, rel=1e-4)


def test_silence_is_refused() -> None:
    with pytest.raises(AudioError, match="silence"):
        prepare_wave(np.zeros(16_000, dtype=np.float32), 16_000, CONFIG, name="a")


def test_audio_shorter_than_the_minimum_is_refused() -> None:
    assert len(prepare_wave(tone(0.1), 16_000, CONFIG, name="a")) == 1600
    with pytest.raises(AudioError, match=r"0\.099 s of audio; expected at least 0\.1 s"):
        prepare_wave(tone(0.1)[:1590], 16_000, CONFIG, name="a")


def test_a_wave_with_two_axes_or_no_rate_is_refused() -> None:
    with pytest.raises(AudioError, match="expected one channel"):
        prepare_wave(np.zeros((2, 16_000), dtype=np.float32), 16_000, CONFIG, name="a")
    with pytest.raises(AudioError, match="sampling rate 0 Hz"):
        prepare_wave(tone(), 0, CONFIG, name="a")


@pytest.mark.parametrize("content", [b"hello, I am text", b"", b"<html>404</html>", b"RIFF\x00\x00\x00\x00WAVE"])
def test_a_file_that_is_not_audio_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(content)
    with pytest.raises(AudioError, match=r"a\.wav: cannot be decoded as audio"):
        read_wave(file, CONFIG)


def test_a_missing_file_and_a_folder_are_no_audio(tmp_path: Path) -> None:
    for path in (tmp_path / "a.wav", tmp_path):
        with pytest.raises(AudioError, match="no such audio file"):
            read_wave(path, CONFIG)


@pytest.mark.parametrize("part", [0.999, 0.9, 0.5, 0.1])
@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "ULAW"),
        ("WAVEX", "PCM_24"),
        ("RF64", "PCM_16"),
        ("W64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
def test_a_truncated_file_is_refused_not_read_as_a_shorter_one(
    tmp_path: Path, format: str, subtype: str, part: float
) -> None:
    noise = np.random.default_rng(0).standard_normal(8 * 16_000).astype(np.float32)
    whole = encode(0.1 * noise, format=format, subtype=subtype)
    assert abs(len(decode_audio(whole, name="a")[0]) - len(noise)) <= 2 * 1152
    file = tmp_path / "a"
    file.write_bytes(whole[: int(part * len(whole))])
    for data in (file, file.read_bytes()):
        with pytest.raises(AudioError, match=r"a: (truncated|cannot be decoded)"):
            decode_audio(data, name="a")
    if format != "FLAC":  # its header says nothing of its size
        with pytest.raises(AudioError):
            read_header(file, name="a")


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_cut_between_two_pages_is_refused(subtype: str) -> None:
    noise = np.random.default_rng(0).standard_normal(8 * 16_000).astype(np.float32)
    whole = encode(0.1 * noise, format="OGG", subtype=subtype)
    with pytest.raises(AudioError, match="truncated; its last Ogg page is not marked as the end of the stream"):
        decode_audio(whole[: whole.rindex(b"OggS")], name="a")


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_what_follows_the_end_of_an_ogg_stream_does_no_harm(subtype: str) -> None:
    whole = encode(tone(2.0), format="OGG", subtype=subtype)
    assert len(decode_audio(whole + b"TAG" + bytes(125), name="a")[0]) == 32_000


def test_an_mp3_with_tags_before_and_after_is_whole_until_it_is_cut() -> None:
    picture = b"ID3\x04\0\0" + bytes([0, 0, 39, 16]) + bytes(39 * 128 + 16)  # sizes have seven bits a byte
    mp3 = encode(tone(2.0), format="MP3", subtype="MPEG_LAYER_III")
    assert len(decode_audio(picture + mp3 + b"TAG" + bytes(125), name="a")[0]) > 31_000
    with pytest.raises(AudioError, match="truncated; the last 20 bytes that its header announces are missing"):
        decode_audio((picture + mp3)[:-20], name="a")


@pytest.mark.parametrize("part", [0.93, 0.5, 0.1])
def test_an_mp3_whose_head_counts_frames_and_no_bytes_is_refused_for_the_samples_that_are_missing(part: float) -> None:
    """Nothing but the decoded samples shows that it was cut; its count may be out by a twentieth."""
    noise = np.random.default_rng(0).standard_normal(8 * 16_000).astype(np.float32)
    whole = bytearray(encode(0.1 * noise, format="MP3", subtype="MPEG_LAYER_III"))
    whole[whole.index(b"Xing") + 7] = 1  # of frames, bytes, seek table and quality the first alone is there
    assert len(decode_audio(bytes(whole), name="a")[0]) == pytest.approx(len(noise), abs=2 * 1152)
    with pytest.raises(AudioError, match=r"a: truncated; \d+ of 12\d{4} samples are there. Replace it"):
        decode_audio(bytes(whole[: int(part * len(whole))]), name="a")


def test_a_header_of_endless_chunks_ends() -> None:
    assert cut_short(b"RIFF" + bytes(4) + b"WAVE" + b"junk\0\0\0\0" * 100_000) is None
    assert cut_short(b"caff" + bytes(4) + (b"free" + b"\xff" * 8)) is None


def test_a_wav_of_unknown_length_as_a_pipe_writes_it_is_read_to_its_end() -> None:
    data = bytearray(encode(tone()))
    place = data.index(b"data") + 4
    data[place : place + 4] = data[4:8] = b"\xff\xff\xff\xff"
    assert len(decode_audio(bytes(data), name="a")[0]) == 8000


def test_a_file_that_unfolds_to_too_much_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    long = encode(np.zeros(16_000 * 30, dtype=np.float32), format="FLAC")
    monkeypatch.setattr(audio, "MAX_DECODED_SECONDS", 20.0)
    with pytest.raises(AudioError, match="30 s of audio"):
        decode_audio(long, name="a")
    monkeypatch.undo()
    wide = encode(np.zeros((16_000, 8), dtype=np.float32), format="FLAC")
    monkeypatch.setattr(audio, "MAX_DECODED_VALUES", 100_000)
    with pytest.raises(AudioError, match=r"1 s of audio in 8 channel\(s\)"):
        decode_audio(wide, name="a")


def test_flac_keeps_sixteen_bits_and_clips_instead_of_wrapping() -> None:
    wave = np.array([0.0, 0.5, 1.5, -1.5] * 100, dtype=np.float32)
    samples, rate = decode_audio(encode_flac(wave), name="a")
    assert rate == 16_000
    np.testing.assert_allclose(samples[:4], [0.0, 0.5, 1.0, -1.0], atol=1 / 32768)


def write_mp3(path: Path, rate: int, bitrate_mode: str) -> int:
    """Write four seconds whose bit rate changes; return the samples."""
    rng = np.random.default_rng(0)
    wave = 0.1 * np.sin(2 * np.pi * 440 * np.arange(4 * rate) / rate)
    wave[rate : 2 * rate] = 0.05 * rng.standard_normal(rate)
    soundfile.write(path, wave, rate, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=bitrate_mode)
    return len(wave)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_whose_length_the_decoder_guesses_too_short_is_refused(tmp_path: Path, rate: int, mode: str) -> None:
    """Recorders and streams write none of the headers that count; a fifth of such a file was read, without a word."""
    whole, bare = tmp_path / "whole.mp3", tmp_path / "bare.mp3"
    samples = write_mp3(whole, rate, mode)
    assert len(decode_audio(whole, name="whole.mp3")[0]) == pytest.approx(samples, abs=2 * 1152)
    data = whole.read_bytes()
    first = next(at for at in range(60, 2000) if data[at : at + 3] == data[:3] or data[at : at + 2] == data[:2])
    bare.write_bytes(data[first:])
    assert count_mp3_samples(bare) == pytest.approx(samples, abs=4 * 1152)
    assert count_mp3_samples(bare.read_bytes()) == count_mp3_samples(bare)
    assert count_mp3_samples(whole) == 0
    for read in (decode_audio, read_header):
        with pytest.raises(AudioError, match=r"bare\.mp3: its header does not say how long it is"):
            read(bare, name="bare.mp3")


def test_what_is_no_mp3_frame_ends_the_count(tmp_path: Path) -> None:
    for head in (b"", b"\xff", b"\xff\xfb\x90\x00", b"\xff\xfb\xf0\x00" * 30, b"\x00" * 200):
        assert count_mp3_samples(head) in (0, 1152)
