"""Waves that are read when they are needed: the same waves, in order, once, within the memory."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.config import PreprocessConfig
from lora.data.audio import prepare_wave, wave_sha256
from lora.data.manifest import InlineAudio, Utterance, read_manifest, write_manifest
from lora.data.wave_store import FACTS_VERSION, WaveStore
from lora.data.waves import Audio, LazyWave, WavesAhead, work_ahead
from lora.errors import AudioError, ManifestError, SetupError
from lora.units import Wave

PREPROCESS = PreprocessConfig()


def write_clip(path: Path, samples: int, rate: int = 16_000, *, seed: int = 0) -> Utterance:
    wave = np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)
    soundfile.write(path, wave, rate)
    return Utterance(path.stem, "words", path, place=f"a.jsonl:{seed}")


def measured(store: WaveStore, *utterances: Utterance) -> list[LazyWave]:
    waves = [wave for wave in store.measure(utterances) if isinstance(wave, LazyWave)]
    assert len(waves) == len(utterances)
    return waves


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the id of every utterance that is decoded from now on."""
    reads: list[str] = []
    load = Utterance.load

    def counted(self: Utterance, config: PreprocessConfig) -> Wave:
        reads.append(self.id)
        return load(self, config)

    monkeypatch.setattr(Utterance, "load", counted)
    return reads


@pytest.mark.parametrize(("suffix", "rate"), [("wav", 16_000), ("flac", 8_000), ("ogg", 44_100), ("mp3", 22_050)])
def test_the_header_gives_the_length_that_the_prepared_wave_has(tmp_path: Path, suffix: str, rate: int) -> None:
    utterance = write_clip(tmp_path / f"clip.{suffix}", 12_345, rate)
    [wave] = measured(WaveStore(PREPROCESS), utterance)
    told, exact = wave.num_samples, wave.is_exact
    loaded = wave.load()
    assert np.array_equal(loaded, utterance.load(PREPROCESS))
    assert exact == (suffix != "mp3")
    assert abs(told - len(loaded)) <= (0 if exact else 2 * 1152)
    assert (wave.num_samples, wave.is_exact, wave.known_sha256) == (len(loaded), True, wave_sha256(loaded))


def test_a_second_store_knows_the_content_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances = [write_clip(tmp_path / f"{seed}.wav", 4_000 + seed, seed=seed) for seed in range(3)]
    store = WaveStore(PREPROCESS, facts=tmp_path / "cache")
    first = measured(store, *utterances)
    assert store.decode(first, "") == [None, None, None]
    assert not (tmp_path / "cache").exists()
    store.flush()
    reads = count_reads(monkeypatch)
    again = WaveStore(PREPROCESS, facts=tmp_path / "cache")
    second = measured(again, *utterances)
    assert [(wave.num_samples, wave.known_sha256) for wave in second] == [
        (wave.num_samples, wave.known_sha256) for wave in first
    ]
    assert again.decode(second, "") == [None, None, None]
    assert reads == []


def test_a_changed_file_or_other_preprocessing_is_decoded_again(tmp_path: Path) -> None:
    utterance = write_clip(tmp_path / "a.wav", 4_000, seed=1)
    store = WaveStore(PREPROCESS, facts=tmp_path / "cache")
    store.decode(measured(store, utterance), "")
    store.flush()
    write_clip(tmp_path / "a.wav", 4_001, seed=2)
    [changed] = measured(WaveStore(PREPROCESS, facts=tmp_path / "cache"), utterance)
    assert changed.known_sha256 is None
    louder = PreprocessConfig(target_rms=0.1)
    [other] = measured(WaveStore(louder, facts=tmp_path / "cache"), write_clip(tmp_path / "b.wav", 4_000))
    assert other.known_sha256 is None


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_decoded_again(tmp_path: Path) -> None:
    utterance = write_clip(tmp_path / "a.wav", 4_000, seed=1)
    status = (tmp_path / "a.wav").stat()
    store = WaveStore(PREPROCESS, facts=tmp_path / "cache")
    store.decode(measured(store, utterance), "")
    store.flush()
    write_clip(tmp_path / "a.wav", 4_000, seed=2)
    os.utime(tmp_path / "a.wav", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (tmp_path / "a.wav").stat().st_size == status.st_size
    [changed] = measured(WaveStore(PREPROCESS, facts=tmp_path / "cache"), utterance)
    assert changed.known_sha256 is None


def test_a_copy_under_another_name_is_known(tmp_path: Path) -> None:
    store = WaveStore(PREPROCESS, facts=tmp_path / "cache")
    store.decode(measured(store, write_clip(tmp_path / "a.wav", 4_000, seed=1)), "")
    store.flush()
    [copy] = measured(WaveStore(PREPROCESS, facts=tmp_path / "cache"), write_clip(tmp_path / "b.wav", 4_000, seed=1))
    assert copy.known_sha256 is not None


def test_damaged_facts_are_named_and_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    utterances = [write_clip(tmp_path / f"{seed}.wav", 4_000, seed=seed) for seed in range(2)]
    store = WaveStore(PREPROCESS, facts=tmp_path / "cache")
    store.decode(measured(store, *utterances), "")
    store.flush()
    path = tmp_path / "cache" / f"waves-{FACTS_VERSION}.index"
    whole = path.read_bytes()
    path.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    again = WaveStore(PREPROCESS, facts=tmp_path / "cache")
    assert f"warning: {path}: record 0 does not match its checksum" in capsys.readouterr().err
    waves = measured(again, *utterances)
    assert [wave.known_sha256 for wave in waves] == [None, None]
    again.decode(waves, "")
    again.flush()
    assert all(wave.known_sha256 for wave in measured(WaveStore(PREPROCESS, facts=tmp_path / "cache"), *utterances))
    assert capsys.readouterr().err == ""


def test_a_facts_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    store = WaveStore(PREPROCESS, facts=tmp_path / "cache")
    store.decode(measured(store, write_clip(tmp_path / "a.wav", 4_000)), "")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SetupError, match=r"waves-.*index: cannot be written"):
        store.flush()


def test_the_longest_unused_wave_leaves_the_memory_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances = [write_clip(tmp_path / f"{name}.wav", 4_000, seed=seed) for seed, name in enumerate("abc")]
    a, b, c = measured(WaveStore(PREPROCESS, memory_bytes=2 * 4_000 * 4), *utterances)
    reads = count_reads(monkeypatch)
    for wave in (a, b, a, c, a, b):
        wave.load()
    assert reads == ["a", "b", "c", "b"]


def test_faults_come_with_their_utterance(tmp_path: Path) -> None:
    short, good = write_clip(tmp_path / "short.wav", 100, seed=1), write_clip(tmp_path / "good.wav", 4_000, seed=2)
    soundfile.write(tmp_path / "silent.wav", np.zeros(4_000), 16_000)
    silent = Utterance("silent", "words", tmp_path / "silent.wav", place="a.jsonl:3")
    gone = Utterance("gone", "words", tmp_path / "gone.wav", place="a.jsonl:4")
    store = WaveStore(PREPROCESS)
    results = store.measure([short, good, silent, gone])
    assert [type(result) for result in results] == [AudioError, LazyWave, LazyWave, AudioError]
    assert str(results[0]).startswith("a.jsonl:1: 0.006 s")
    assert str(results[3]).startswith("a.jsonl:4: gone.wav cannot be read")
    none, fault = store.decode([wave for wave in results if isinstance(wave, LazyWave)], "")
    assert none is None
    assert str(fault).startswith("a.jsonl:3: silence")


def test_inline_waveforms_stay_in_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waves = [np.random.default_rng(seed).uniform(-0.5, 0.5, 2_000 + seed).astype(np.float32) for seed in range(3)]
    rows = [Utterance(f"u{seed}", "words", wave, sampling_rate=8_000) for seed, wave in enumerate(waves)]
    path = tmp_path / "a.jsonl"
    write_manifest(path, rows)
    utterances = read_manifest(path, stream_inline=True).utterances
    assert all(isinstance(utterance.audio, InlineAudio) for utterance in utterances)
    store = WaveStore(PREPROCESS, facts=tmp_path / "cache")
    lazy = measured(store, *utterances)
    assert [wave.num_samples for wave in lazy] == [2 * len(wave) for wave in waves]
    for wave, samples in zip(lazy, waves, strict=True):
        assert np.array_equal(wave.load(), prepare_wave(samples, 8_000, PREPROCESS, name="u"))
    store.flush()
    reads = count_reads(monkeypatch)
    known = measured(WaveStore(PREPROCESS, facts=tmp_path / "cache"), *utterances)
    assert [wave.known_sha256 for wave in known] == [wave.known_sha256 for wave in lazy]
    assert reads == []
    path.write_bytes(path.read_bytes().replace(b'"u1"', b'"x1"'))
    with pytest.raises(ManifestError, match=r"a\.jsonl:2: the manifest was changed"):
        utterances[1].load(PREPROCESS)


def test_work_ahead_keeps_the_order_and_runs_before_it_is_asked_for() -> None:
    begun = [threading.Event() for _ in range(8)]

    def work(number: int) -> Callable[[], int]:
        def run() -> int:
            begun[number].set()
            return number

        return run

    def batches() -> Iterator[list[Callable[[], int]]]:
        for start in range(0, 8, 2):
            yield [work(start), work(start + 1)]

    results = work_ahead(batches(), ahead=2)
    assert next(results) == [0, 1]
    assert all(event.wait(10) for event in begun[:6])
    assert not any(event.is_set() for event in begun[6:])
    assert list(results) == [[2, 3], [4, 5], [6, 7]]


def test_what_work_raises_comes_in_its_place() -> None:
    def refuse() -> int:
        raise AudioError("broken")

    results = work_ahead([[lambda: 1], [refuse], [lambda: 3]])
    assert next(results) == [1]
    with pytest.raises(AudioError, match="broken"):
        next(results)


def test_waves_ahead_gives_every_wave_in_any_order_and_bounds_what_it_holds() -> None:
    reads: list[int] = []

    def lazy(number: int) -> LazyWave:
        def read() -> Wave:
            reads.append(number)
            return np.full(1_000 + number, number, dtype=np.float32)

        return LazyWave(read, 1_000 + number)

    audios: list[Audio] = [lazy(number) for number in range(20)]
    audios[7] = np.full(1_007, 7, dtype=np.float32)
    with WavesAhead(audios, samples_ahead=3_000) as waves:
        assert waves[19][0] == 19
        assert set(reads) <= {19, 18, 17}
        order = [18, 3, *range(4, 18), 0, 1, 2]
        assert [float(waves[number][0]) for number in order] == order
        # Taken a second time, as after a batch that did not fit into memory.
        assert float(waves[5][0]) == 5
    assert sorted(set(reads)) == [number for number in range(20) if number != 7]
