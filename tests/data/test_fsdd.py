from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.data.manifest import read_manifest
from lora.data.sources.base import Clip, write_clips
from lora.data.sources.fsdd import DIGIT_WORDS, load_recordings, read_fsdd
from lora.errors import AudioError, SourceError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "fsdd"
SAMPLES_PER_RECORDING = 800


def write_recording(folder: Path, name: str, level: float = 0.25, rate: int = 8000) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, np.full(SAMPLES_PER_RECORDING, level, dtype=np.float32), rate, subtype="PCM_16")


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        write_recording(folder, name)


def corpus_names() -> list[str]:
    return [f"{digit}_{who}_{index}.wav" for digit in range(10) for who in ("ann", "bob") for index in (0, 4, 5, 49)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    fill(tmp_path / "fsdd" / "recordings", corpus_names())
    return tmp_path / "fsdd"


def key(clip: Clip) -> tuple[str, str, object, bytes]:
    return clip.id, clip.text, clip.extra["digits"], clip.wave.tobytes()


def test_an_utterance_is_of_one_speaker_and_says_what_its_recordings_say(corpus: Path) -> None:
    for clip in read_fsdd(corpus, split="test", samples=20, seed=1):
        parts = [name.removesuffix(".wav").split("_") for name in clip.extra["digits"]]
        assert {speaker for _, speaker, _ in parts} == {clip.speaker_id}
        assert clip.text == " ".join(DIGIT_WORDS[int(digit)] for digit, _, _ in parts)


@pytest.mark.parametrize(("split", "expected"), [("test", {"0", "4"}), ("train", {"5", "49"})])
def test_a_split_uses_its_own_recordings_only(corpus: Path, split: str, expected: set[str]) -> None:
    clips = read_fsdd(corpus, split=split, samples=30, seed=1)  # type: ignore[arg-type]
    assert {name.removesuffix(".wav").split("_")[2] for clip in clips for name in clip.extra["digits"]} == expected


def test_speakers_take_turns_and_ids_count_each_speaker(corpus: Path) -> None:
    ids = [clip.id for clip in read_fsdd(corpus, split="test", samples=5, seed=1)]
    assert ids == [f"fsdd-test-{name}" for name in ("ann-0000", "bob-0000", "ann-0001", "bob-0001", "ann-0002")]


def test_lengths_from_three_to_seven_digits_all_occur(corpus: Path) -> None:
    lengths = Counter(len(clip.text.split()) for clip in read_fsdd(corpus, split="test", samples=100, seed=1))
    assert sorted(lengths) == [3, 4, 5, 6, 7]


def test_every_recording_is_used_once_before_any_is_used_again(corpus: Path) -> None:
    clips = read_fsdd(corpus, split="test", speakers=["ann"], samples=40, seed=3, min_digits=5, max_digits=5)
    used = [name for clip in clips for name in clip.extra["digits"]]
    assert len(used) == 200
    for start in range(0, 200, 20):
        assert len(set(used[start : start + 20])) == 20
    assert used[:20] != used[20:40]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(corpus: Path) -> None:
    first, again, other = (
        [key(clip) for clip in read_fsdd(corpus, split="test", samples=10, seed=seed)] for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_the_order_of_the_file_system_does_not_matter(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [key(clip) for clip in read_fsdd(corpus, split="train", samples=10, seed=7)]
    listing = Path.iterdir

    def reverse(folder: Path) -> Iterator[Path]:
        return iter(sorted(listing(folder), reverse=True))

    monkeypatch.setattr(Path, "iterdir", reverse)
    assert [key(clip) for clip in read_fsdd(corpus, split="train", samples=10, seed=7)] == expected


def test_a_speakers_utterances_do_not_depend_on_the_others_nor_on_the_number_asked(corpus: Path) -> None:
    alone = [key(clip) for clip in read_fsdd(corpus, split="test", speakers=["bob"], samples=3, seed=7)]
    together = [key(clip) for clip in read_fsdd(corpus, split="test", samples=10, seed=7) if clip.speaker_id == "bob"]
    assert together[:3] == alone


def test_the_recordings_stand_in_the_wave_with_pauses_of_the_documented_length(corpus: Path) -> None:
    (clip,) = read_fsdd(corpus, split="test", samples=1, seed=1)
    assert clip.sampling_rate == 8000
    # The recordings are a constant 0.25 and the pauses almost zero, so the edges can be counted.
    edges = np.flatnonzero(np.diff((clip.wave > 0.1).astype(int)))
    starts, ends = edges[::2] + 1, edges[1::2] + 1
    assert list(ends - starts) == [SAMPLES_PER_RECORDING] * len(clip.extra["digits"])
    pauses = (starts[1:] - ends[:-1]) / 8000
    assert len(set(pauses)) == len(pauses)
    assert all(0.05 - 1e-4 <= pause <= 0.35 + 1e-4 for pause in pauses)
    for edge in (starts[0] / 8000, (len(clip.wave) - ends[-1]) / 8000):
        assert 0.05 - 1e-4 <= edge <= 0.3 + 1e-4
    assert np.abs(clip.wave[clip.wave < 0.1]).max() < 1e-3


def test_recordings_may_lie_directly_in_the_folder(corpus: Path) -> None:
    assert [key(clip) for clip in read_fsdd(corpus / "recordings", split="test", samples=4, seed=1)] == [
        key(clip) for clip in read_fsdd(corpus, split="test", samples=4, seed=1)
    ]


def test_indices_narrow_the_split(corpus: Path) -> None:
    recordings = load_recordings(corpus, "train", ["ann"], range(40, 50))
    assert [(item.name, item.digit, item.speaker, item.index) for item in recordings] == [
        (f"{digit}_ann_49.wav", digit, "ann", 49) for digit in range(10)
    ]
    clips = read_fsdd(corpus, split="train", samples=9, seed=1, indices=range(5, 6))
    assert all(name.endswith("_5.wav") for clip in clips for name in clip.extra["digits"])


def test_single_recordings_come_with_their_samples_sorted(corpus: Path) -> None:
    recordings = load_recordings(corpus, "test")
    assert len(recordings) == 40
    order = [(item.speaker, item.digit, item.index) for item in recordings]
    assert order == sorted(order)
    assert np.array_equal(recordings[0].wave, np.full(SAMPLES_PER_RECORDING, 0.25, dtype=np.float32))
    assert recordings[0].sampling_rate == 8000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"split": "validation"}, "unknown split 'validation'; expected one of test, train"),
        ({"speakers": ["ann", "zoe"]}, r"unknown speaker\(s\): zoe; the folder holds ann, bob"),
        ({"speakers": []}, "empty list; the folder holds ann, bob"),
        ({"indices": range(3, 7)}, r"indices \[5, 6\]; the test split has 0 to 4"),
        ({"indices": range(0)}, "indices empty"),
        ({"indices": range(1, 3)}, r"no test recordings with an index among \[1, 2\] of ann, bob"),
        ({"samples": 0}, "at least 1"),
        ({"seed": -1}, "seed is -1"),
        ({"min_digits": 5, "max_digits": 4}, "minimum <= maximum"),
    ],
)
def test_a_wrong_request_is_refused_at_the_call(corpus: Path, values: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SourceError, match=message):
        read_fsdd(corpus, **{"split": "test", "samples": 1, "seed": 0, **values})


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        load_recordings(tmp_path / "nowhere", "test")


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no audio")
    with pytest.raises(SourceError, match="no WAV files"):
        load_recordings(tmp_path, "test")


def test_every_misnamed_file_is_listed(corpus: Path) -> None:
    bad = ["ten_ann_1.wav", "3_ann.wav", "3_ann_50.wav", "3_ann_04.wav", "3_ann_1.WAV"]
    fill(corpus / "recordings", bad)
    with pytest.raises(SourceError, match=r"5 file\(s\) not named") as caught:
        load_recordings(corpus, "test")
    assert all(name in str(caught.value) for name in bad)


def test_other_files_and_hidden_files_are_passed_over(corpus: Path) -> None:
    for name in ("LICENSE.txt", "._3_ann_1.wav"):
        (corpus / "recordings" / name).write_text("x")
    assert len(load_recordings(corpus, "test")) == 40


def test_a_recording_that_is_not_audio_is_named(corpus: Path) -> None:
    (corpus / "recordings" / "3_ann_0.wav").write_text("not audio")
    with pytest.raises(AudioError, match=r"3_ann_0\.wav"):
        load_recordings(corpus, "test")


def test_an_empty_recording_is_named(corpus: Path) -> None:
    soundfile.write(corpus / "recordings" / "3_ann_0.wav", np.zeros(0), 8000)
    with pytest.raises(SourceError, match=r"3_ann_0\.wav: the recording has no samples"):
        load_recordings(corpus, "test")


def test_recordings_at_two_sampling_rates_are_refused(corpus: Path) -> None:
    write_recording(corpus / "recordings", "3_ann_0.wav", rate=16_000)
    with pytest.raises(SourceError, match=r"\[8000, 16000\] Hz"):
        read_fsdd(corpus, split="test", samples=1, seed=0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the corpus is not beside this checkout")
def test_the_real_corpus_gives_manifests_of_disjoint_recordings(tmp_path: Path) -> None:
    used = {}
    for split in ("train", "test"):
        clips = list(read_fsdd(SHARED, split=split, speakers=["nicolas"], samples=100, seed=42))
        manifest = read_manifest(write_clips(clips[:5], tmp_path / f"{split}.jsonl", total=5))
        assert [utterance.text for utterance in manifest.utterances] == [clip.text for clip in clips[:5]]
        used[split] = {name for clip in clips for name in clip.extra["digits"]}
    assert used["train"].isdisjoint(used["test"])
    assert (len(used["test"]), len(used["train"])) == (50, 450)
