import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from lora.config import PreprocessConfig
from lora.data import audio_folder, placement
from lora.data.audio import wave_sha256
from lora.data.audio_folder import is_intact
from lora.data.leakage import LeakRow
from lora.data.manifest import Utterance, read_manifest
from lora.data.manifest_tools import describe, sample_manifest, split_manifest
from lora.data.merging import merge_manifests
from lora.data.partition import Measured, SplitBy, check_parts, divide, parse_parts
from lora.data.placement import NewAudio, write_placed
from lora.data.shift import shift_manifest
from lora.data.sources.base import Clip, write_clips
from lora.errors import AudioError, CheckFailed, ConfigError, ManifestError


def tone(hertz: float, seconds: float = 0.25) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(16_000 * seconds)) / 16_000)).astype(np.float32)


def make(path: Path, rows: dict[str, dict[str, Any]]) -> Path:
    """Write a manifest; a row may give `hertz`, `seconds`, `inline`, and anything that a manifest holds."""
    lines = []
    for number, (identifier, given) in enumerate(rows.items()):
        row = {"text": f"words of {identifier}", "id": identifier, **given}
        wave = tone(row.pop("hertz", 200 + 10 * number), row.pop("seconds", 0.25))
        if row.pop("inline", False):
            row["audio"] = wave.tolist()
        else:
            row["audio"] = f"{path.stem}_wavs/{number}.wav"
            (path.parent / row["audio"]).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path.parent / row["audio"], wave, 16_000, subtype="FLOAT")
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def hashes(path: Path) -> list[str]:
    return [wave_sha256(utterance.load(PreprocessConfig())) for utterance in read_manifest(path).utterances]


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Merge


def test_a_merged_manifest_has_the_same_audio_and_says_where_each_row_comes_from(tmp_path: Path) -> None:
    one = make(tmp_path / "one.jsonl", {"a": {"speaker_id": 1, "accent": "scottish"}, "b": {"inline": True}})
    two = make(tmp_path / "two.jsonl", {"c": {"hertz": 900}})
    summary = merge_manifests([one, two], tmp_path / "all.jsonl")
    merged = read_manifest(tmp_path / "all.jsonl").utterances
    assert hashes(tmp_path / "all.jsonl") == hashes(one) + hashes(two)
    assert [utterance.extra["origin"] for utterance in merged] == [
        {"manifest": "one.jsonl", "id": "a"},
        {"manifest": "one.jsonl", "id": "b"},
        {"manifest": "two.jsonl", "id": "c"},
    ]
    assert (merged[0].speaker_id, merged[0].extra["accent"]) == (1, "scottish")
    assert (summary.utterances, summary.copied, summary.renamed, summary.dropped) == (3, 0, 0, ())


def test_audio_below_the_output_is_referred_to_and_other_audio_is_copied(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "here").mkdir()
    near = make(tmp_path / "here" / "near.jsonl", {"a": {}})
    far = make(tmp_path / "far" / "far.jsonl", {"b/1 ü": {"hertz": 900}})
    summary = merge_manifests([near, far], tmp_path / "here" / "all.jsonl")
    first, second = read_manifest(tmp_path / "here" / "all.jsonl").utterances
    assert summary.copied == 1
    assert first.audio == (tmp_path / "here" / "near_wavs" / "0.wav").resolve()
    assert isinstance(second.audio, Path)
    assert second.audio.parent.parent == (tmp_path / "here").resolve()
    assert second.audio.parent.name.startswith("all_audio-")
    assert is_intact(second.audio.parent)
    assert second.audio.name.startswith("b_1__-")
    assert hashes(tmp_path / "here" / "all.jsonl") == hashes(near) + hashes(far)


def test_an_id_in_two_manifests_gets_the_manifests_name_in_front(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    paths = [
        make(tmp_path / "one.jsonl", {"a": {}, "b": {"hertz": 300}}),
        make(tmp_path / "x" / "one.jsonl", {"A": {"hertz": 900}, "one1-a": {"hertz": 950}}),
    ]
    assert merge_manifests(paths, tmp_path / "all.jsonl").renamed == 2
    ids = [utterance.id for utterance in read_manifest(tmp_path / "all.jsonl").utterances]
    assert ids == ["one1-a_", "b", "one2-A", "one1-a"]


def test_duplicates_by_audio_are_refused_or_dropped_or_kept(tmp_path: Path) -> None:
    one = make(tmp_path / "one.jsonl", {"a": {"hertz": 500, "text": "seven"}})
    two = make(tmp_path / "two.jsonl", {"b": {"hertz": 500, "text": "eight", "inline": True}, "c": {"hertz": 900}})
    with pytest.raises(ManifestError) as error:
        merge_manifests([one, two], tmp_path / "all.jsonl")
    assert error.value.problems == (
        f"{two}:1: 'b' has the audio of 'a' ({one}:1), but another text: 'eight' and 'seven'",
    )
    assert not (tmp_path / "all.jsonl").exists()
    summary = merge_manifests([one, two], tmp_path / "all.jsonl", duplicates="drop")
    assert [utterance.id for utterance in read_manifest(tmp_path / "all.jsonl").utterances] == ["a", "c"]
    assert len(summary.dropped) == 1
    assert merge_manifests([one, two], tmp_path / "all.jsonl", duplicates="keep").utterances == 3


def test_the_origin_of_a_merged_row_is_kept_when_it_is_merged_again(tmp_path: Path) -> None:
    one = make(tmp_path / "one.jsonl", {"a": {}})
    two = make(tmp_path / "two.jsonl", {"b": {"hertz": 900}})
    merge_manifests([one], tmp_path / "first.jsonl")
    merge_manifests([tmp_path / "first.jsonl", two], tmp_path / "second.jsonl")
    origin = read_manifest(tmp_path / "second.jsonl").utterances[0].extra["origin"]
    assert origin == {"manifest": "first.jsonl", "id": "a", "origin": {"manifest": "one.jsonl", "id": "a"}}


def test_no_manifest_is_merged_into_itself_or_twice(tmp_path: Path) -> None:
    one = make(tmp_path / "one.jsonl", {"a": {}})
    with pytest.raises(ConfigError, match="in place"):
        merge_manifests([one], one)
    with pytest.raises(ManifestError, match="twice"):
        merge_manifests([one, tmp_path / "." / "one.jsonl"], tmp_path / "all.jsonl")
    with pytest.raises(ConfigError, match="is a folder"):
        merge_manifests([one], tmp_path)


def test_a_clip_that_cannot_be_used_stops_the_merge_and_leaves_nothing(tmp_path: Path) -> None:
    one = make(tmp_path / "one.jsonl", {"a": {}})
    soundfile.write(tmp_path / "one_wavs" / "0.wav", np.zeros(4000), 16_000)
    before = files_below(tmp_path)
    with pytest.raises(ManifestError, match="silence"):
        merge_manifests([one], tmp_path / "all.jsonl")
    assert files_below(tmp_path) == before


# Placing


@pytest.fixture
def two_takes(tmp_path: Path, make_clip: Callable[..., Clip]) -> tuple[Path, Path]:
    """A manifest of three clips, and one of a softer copy of the second at 44.1 kHz, inline, and another clip."""
    one = write_clips((make_clip(number, seed=70) for number in range(3)), tmp_path / "one.jsonl", total=3)
    copy, other = (make_clip(number, seed=seed) for number, seed in ((1, 70), (0, 71)))
    rows = [
        {"id": "soft", "audio": (0.2 * soxr.resample(copy.wave, 16_000, 44_100)).tolist(), "sampling_rate": 44_100},
        {"id": "other", "audio": other.wave.tolist()},
    ]
    two = tmp_path / "two.jsonl"
    two.write_text("".join(json.dumps(row | {"text": copy.text}) + "\n" for row in rows))
    return one, two


def test_likely_the_same_recording_is_a_duplicate_too(two_takes: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = two_takes
    with pytest.raises(ManifestError) as error:
        merge_manifests([one, two], tmp_path / "all.jsonl")
    assert error.value.problems == (f"{two}:1: 'soft' is likely the same recording as 'toy-70-1' ({one}:2)",)
    summary = merge_manifests([one, two], tmp_path / "all.jsonl", duplicates="drop")
    assert [row.id for row in read_manifest(tmp_path / "all.jsonl").utterances] == [
        *(f"toy-70-{number}" for number in range(3)),
        "other",
    ]
    assert len(summary.dropped) == 1
    assert merge_manifests([one, two], tmp_path / "all.jsonl", duplicates="keep").utterances == 5


@pytest.mark.parametrize("seed", range(6))
def test_a_split_keeps_likely_the_same_recordings_together(
    two_takes: tuple[Path, Path], tmp_path: Path, seed: int
) -> None:
    merge_manifests(list(two_takes), tmp_path / "all.jsonl", duplicates="keep")
    parts = parse_parts(["train=0.5", "test=0.5"])
    summary = split_manifest(tmp_path / "all.jsonl", parts, tmp_path / "parts", by="utterance", seed=seed)
    ids = [{row.id for row in read_manifest(part.path).utterances} for part in summary.parts]
    assert {"soft", "toy-70-1"} <= ids[0] or {"soft", "toy-70-1"} <= ids[1]


def test_a_failure_half_way_leaves_the_old_manifest_and_its_audio(tmp_path: Path) -> None:
    def entries(fail: bool, data: bytes):  # type: ignore[no-untyped-def]
        yield NewAudio(Utterance("a", "one", np.ones(1, np.float32)), data)
        if fail:
            raise AudioError("no more")

    write_placed(tmp_path / "all.jsonl", entries(False, b"old"))
    before = {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)}
    with pytest.raises(AudioError):
        write_placed(tmp_path / "all.jsonl", entries(True, b"new"))
    assert {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)} == before


def test_ids_that_are_no_file_names_or_differ_in_case_only_get_files_of_their_own(tmp_path: Path) -> None:
    ids = ["a", "A", "x/y", "x:y", "..", "é", "long" * 100]
    write_placed(
        tmp_path / "all.jsonl", (NewAudio(Utterance(name, "one", np.ones(1, np.float32)), b"x") for name in ids)
    )
    utterances = read_manifest(tmp_path / "all.jsonl").utterances
    assert [utterance.id for utterance in utterances] == ids
    assert len({str(utterance.audio).casefold() for utterance in utterances}) == len(ids)
    (folder,) = tmp_path.glob("all_audio-*")
    assert len(list(folder.iterdir())) == len(ids)


def test_a_folder_of_the_users_where_audio_was_put_by_an_earlier_version_is_read_and_stays(tmp_path: Path) -> None:
    old = make(tmp_path / "old.jsonl", {"a": {}})
    (tmp_path / "old_wavs").rename(tmp_path / "new_audio")
    (tmp_path / "new_audio" / "notes.txt").write_text("mine")
    old.write_text(old.read_text().replace("old_wavs", "new_audio"))
    before = {path: path.read_bytes() for path in (tmp_path / "new_audio").iterdir()}
    merge_manifests([old], tmp_path / "new.jsonl")
    shift_manifest(old, ["level:3"], tmp_path / "new2.jsonl")
    assert {path: path.read_bytes() for path in (tmp_path / "new_audio").iterdir()} == before
    assert hashes(tmp_path / "new.jsonl") == hashes(old)


@pytest.mark.parametrize("mine", ["m.jsonl", "wavs"])
def test_nothing_of_the_users_and_no_input_is_written_over(tmp_path: Path, mine: str) -> None:
    one = make(tmp_path / "one.jsonl", {f"u{n}": {"speaker_id": n} for n in range(4)})
    output = tmp_path / "m.jsonl" if mine == "m.jsonl" else tmp_path / "one_wavs" / "0.wav"
    (tmp_path / "m.jsonl").write_text("mine")
    (tmp_path / "one_train.jsonl").write_text("mine")
    before = {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)}
    for write in (
        lambda: merge_manifests([one], output),
        lambda: sample_manifest(one, output, samples=1),
        lambda: shift_manifest(one, ["level:3"], output),
        lambda: split_manifest(one, parse_parts(["train=0.5", "test=rest"]), tmp_path),
    ):
        with pytest.raises(ConfigError, match="not an earlier output"):
            write()
    for write in (
        lambda: sample_manifest(one, one, samples=1),
        lambda: shift_manifest(one, ["level:3"], one),
    ):
        with pytest.raises(ConfigError, match="in place"):
            write()
    assert {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)} == before


def test_an_audio_folder_that_was_changed_is_not_taken_for_what_its_name_says(tmp_path: Path) -> None:
    entry = NewAudio(Utterance("a", "one", np.ones(1, np.float32)), b"data")
    write_placed(tmp_path / "all.jsonl", [entry])
    (folder,) = tmp_path.glob("all_audio-*")
    (folder / ".DS_Store").write_bytes(b"left by a file manager")
    assert is_intact(folder)
    write_placed(tmp_path / "all.jsonl", [entry])
    (folder / "notes.txt").write_text("mine")
    assert not is_intact(folder)
    with pytest.raises(ConfigError, match="not what its name says"):
        write_placed(tmp_path / "all.jsonl", [entry])
    (folder / "notes.txt").unlink()
    (folder / "a.flac").write_bytes(b"edit")
    assert not is_intact(folder)


def test_a_manifest_is_written_through_a_link_to_an_earlier_one_and_lies_beside_its_audio(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link, real = tmp_path / "link.jsonl", tmp_path / "far" / "all.jsonl"
    link.symlink_to(real)
    for data in (b"old", b"new"):
        output = real if data == b"old" else link
        write_placed(output, [NewAudio(Utterance("a", "one", np.ones(1, np.float32)), data)])
    (utterance,) = read_manifest(real).utterances
    assert isinstance(utterance.audio, Path)
    assert utterance.audio.read_bytes() == b"new"
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "link.jsonl"]


@pytest.mark.parametrize("before", ["audio", "manifest"])
def test_killed_before_the_audio_or_the_manifest_appears_old_and_new_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    one = make(tmp_path / "one.jsonl", {"a": {}, "b": {"hertz": 700}})
    output = tmp_path / "far" / "m.jsonl"
    shift_manifest(one, ["level:3"], output)
    old, old_audio = output.read_bytes(), hashes(output)
    with monkeypatch.context() as patch:
        if before == "audio":
            patch.setattr(audio_folder, "_place", _killed)
        else:
            patch.setattr(audio_folder, "output_file", _killed)
        with pytest.raises(KeyboardInterrupt):
            merge_manifests([one], output)
    assert output.read_bytes() == old
    assert hashes(output) == old_audio
    merge_manifests([one], output)
    assert hashes(output) == hashes(one)
    again = tmp_path / "other" / "m.jsonl"
    merge_manifests([one], again)
    assert output.read_bytes() == again.read_bytes()


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


# Split


def measured(name: str, speaker: str | None, audio: str = "", seconds: float = 60.0, text: str = "") -> Measured:
    return Measured(LeakRow(name, audio or f"audio of {name}", speaker, text or f"words of {name}", name), seconds)


CROWD = [measured(f"u{speaker}-{n}", f"s{speaker}") for speaker in range(20) for n in range(3)]


def test_speakers_stay_whole_and_the_parts_have_the_fractions() -> None:
    assigned = divide(CROWD, parse_parts(["train=0.8", "dev=0.1", "test=0.1"]), by="speaker", seed=1)
    speakers = {
        part: {row.row.speaker_id for row in CROWD if assigned[row.id] == part} for part in ("train", "dev", "test")
    }
    assert {part: len(names) for part, names in speakers.items()} == {"train": 16, "dev": 2, "test": 2}
    assert sum(map(len, speakers.values())) == 20


def test_hours_and_the_rest_can_be_asked_for_and_what_no_one_asks_for_is_left_out() -> None:
    some = divide(CROWD, parse_parts(["test=0.1h", "train=rest"]), by="speaker", seed=1)
    assert sum(part == "test" for part in some.values()) == 6
    assert len(some) == 60
    assert len(divide(CROWD, parse_parts(["test=0.1h"]), by="speaker", seed=1)) == 6


def test_the_division_depends_on_the_seed_and_not_on_the_order() -> None:
    parts = parse_parts(["train=0.5", "test=0.5"])
    first = divide(CROWD, parts, by="speaker", seed=1)
    assert divide(CROWD[::-1], parts, by="speaker", seed=1) == first
    assert divide(CROWD, parts, by="speaker", seed=2) != first


def of_one_recording(row: Measured, number: int) -> Measured:
    return replace(row, row=replace(row.row, recording=number))


@pytest.mark.parametrize("by", ["speaker", "utterance"])
@pytest.mark.parametrize("shared", ["audio", "recording"])
def test_what_shares_audio_or_a_recording_stays_together_whatever_the_seed(by: SplitBy, shared: str) -> None:
    """Four speakers with a minute each: nothing else keeps two of them together in every draw."""
    alone = [measured(name, f"{name} speaks") for name in "abcd"]
    audio = [measured(name, f"{name} speaks", "same") for name in "ab"] + alone[2:]
    recording = [of_one_recording(row, 7) for row in alone[:2]] + alone[2:]
    parts = parse_parts(["train=0.5", "test=0.5"])

    def together(rows: list[Measured]) -> list[bool]:
        drawn = [divide(rows, parts, by=by, seed=seed) for seed in range(12)]
        assert all(sorted(assigned.values()) == ["test", "test", "train", "train"] for assigned in drawn)
        return [assigned["a"] == assigned["b"] for assigned in drawn]

    assert all(together(audio if shared == "audio" else recording))
    assert not all(together(alone))


def test_what_cannot_be_divided_is_refused_with_what_to_do() -> None:
    two = parse_parts(["train=0.5", "test=0.5"])
    with pytest.raises(ManifestError, match="--by utterance"):
        divide([measured("a", None), measured("b", "bob")], two, by="speaker", seed=0)
    with pytest.raises(ManifestError, match="got 1 speakers"):
        divide([measured("a", "ann"), measured("b", "ann")], two, by="speaker", seed=0)
    with pytest.raises(ManifestError, match=r"ask for 5\.000 hours, and there are 1\.000"):
        divide(CROWD, parse_parts(["test=5h"]), by="speaker", seed=0)


def test_parts_that_leak_do_not_pass_and_texts_in_common_are_reported() -> None:
    rows = [measured("a", "ann", text="seven"), measured("b", "ann"), measured("c", "eve", text="Seven!")]
    with pytest.raises(CheckFailed, match="leak"):
        check_parts(rows, {"a": "train", "b": "test", "c": "test"}, by="speaker")
    (leak,) = check_parts(rows, {"a": "test", "b": "test", "c": "train"}, by="speaker")
    assert (leak.kind, {leak.train_id, leak.evaluation_id}) == ("transcript", {"a", "c"})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["train"], "expected NAME=FRACTION"),
        (["train=x"], "expected NAME=FRACTION"),
        (["../up=0.5"], "expected NAME=FRACTION"),
        (["a=0.5", "a=0.5"], "named twice"),
        (["a=0.7", "b=0.7"], "come to 1.4"),
        (["a=rest", "b=rest"], "more than one"),
        (["a=0"], "asks for nothing"),
        ([], "got none"),
    ],
)
def test_wrong_parts_are_refused(parts: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_parts(parts)
    assert message in str(error.value)


def test_a_split_writes_manifests_that_share_no_speaker_and_keep_the_audio_where_it_is(tmp_path: Path) -> None:
    rows = {f"u{n}": {"speaker_id": n % 4, "hertz": 200 + 20 * n, "inline": n == 0} for n in range(12)}
    path = make(tmp_path / "all.jsonl", rows)
    summary = split_manifest(path, parse_parts(["train=0.5", "test=rest"]), tmp_path, seed=3)
    train, test = (read_manifest(tmp_path / f"all_{name}.jsonl").utterances for name in ("train", "test"))
    assert {u.speaker_id for u in train} & {u.speaker_id for u in test} == set()
    assert sorted(u.id for u in (*train, *test)) == sorted(rows)
    assert [part.utterances for part in summary.parts] == [6, 6]
    assert summary.parts[0].asked_seconds == pytest.approx(1.5)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert folder.name == "all_wavs"


def split_of(tmp_path: Path, seed: int, **changes: Any) -> dict[str, list[str]]:
    path = tmp_path / "all.jsonl"
    parts = parse_parts(changes.pop("parts", ["train=0.5", "test=rest"]))
    split_manifest(path, parts, tmp_path, seed=seed)
    return {
        part.name: [row.id for row in read_manifest(tmp_path / f"all_{part.name}.jsonl").utterances] for part in parts
    }


def test_another_split_is_not_written_over_and_the_same_one_is_found(tmp_path: Path) -> None:
    make(tmp_path / "all.jsonl", {f"u{n}": {"speaker_id": n} for n in range(12)})
    first = split_of(tmp_path, 1)
    before = {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)}
    assert split_of(tmp_path, 1) == first
    with pytest.raises(ConfigError, match="another seed") as error:
        split_of(tmp_path, 2)
    assert len(error.value.problems) == 2
    with pytest.raises(ConfigError, match="another seed"):
        split_of(tmp_path, 1, parts=["dev=0.2", "test=rest"])
    assert {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)} == before


def test_a_split_that_was_killed_between_its_parts_is_finished_and_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "all.jsonl", {f"u{n}": {"speaker_id": n, "hertz": 200 + 20 * n} for n in range(12)})
    publish, calls = audio_folder.publish, []

    def killed_at_the_second(*arguments: Any, **named: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        publish(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(placement, "publish", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            split_of(tmp_path, 1)
    assert (tmp_path / "all_train.jsonl").exists()
    assert not (tmp_path / "all_test.jsonl").exists()
    with pytest.raises(ConfigError, match="another seed"):
        split_of(tmp_path, 2)
    parts = split_of(tmp_path, 1)
    assert not set(parts["train"]) & set(parts["test"])


# Sample and stats


def test_a_larger_sample_holds_the_smaller_one_and_the_order_stays(tmp_path: Path) -> None:
    path = make(tmp_path / "all.jsonl", {f"u{n:02d}": {} for n in range(12)})
    drawn = []
    for count in (3, 6):
        sample_manifest(path, tmp_path / "small.jsonl", samples=count, seed=5)
        drawn.append([utterance.id for utterance in read_manifest(tmp_path / "small.jsonl").utterances])
    assert [len(ids) for ids in drawn] == [3, 6]
    assert set(drawn[0]) < set(drawn[1])
    assert drawn[1] == sorted(drawn[1])


def test_a_balanced_sample_takes_speakers_in_turn(tmp_path: Path) -> None:
    rows = {f"u{n:02d}": {"speaker_id": "ann" if n < 9 else f"s{n}"} for n in range(12)}
    path = make(tmp_path / "all.jsonl", rows)
    sample_manifest(path, tmp_path / "small.jsonl", samples=4, balanced=True)
    assert len({utterance.speaker_id for utterance in read_manifest(tmp_path / "small.jsonl").utterances}) == 4


def test_hours_are_filled_by_whole_utterances(tmp_path: Path) -> None:
    path = make(tmp_path / "all.jsonl", {f"u{n}": {"seconds": 1.0} for n in range(5)})
    assert sample_manifest(path, tmp_path / "small.jsonl", hours=2.5 / 3600) == 3


def test_more_than_there_is_cannot_be_sampled(tmp_path: Path) -> None:
    path = make(tmp_path / "all.jsonl", {"a": {}})
    with pytest.raises(ManifestError, match="there are 1"):
        sample_manifest(path, tmp_path / "small.jsonl", samples=2)
    with pytest.raises(ManifestError, match="Ask for less"):
        sample_manifest(path, tmp_path / "small.jsonl", hours=1)
    with pytest.raises(ConfigError, match="one of them"):
        sample_manifest(path, tmp_path / "small.jsonl")


def test_stats_count_hours_speakers_words_and_texts(tmp_path: Path) -> None:
    path = make(
        tmp_path / "all.jsonl",
        {
            "a": {"speaker_id": 1, "seconds": 0.5, "text": "One two."},
            "b": {"speaker_id": "1", "seconds": 1.5, "text": "one two", "inline": True},
            "c": {"speaker_id": 2, "seconds": 1.0, "text": "three"},
        },
    )
    stats = describe(path)
    assert (stats.utterances, stats.seconds, stats.shortest, stats.longest) == (3, 3.0, 0.5, 1.5)
    assert (stats.speakers, stats.words, stats.distinct_texts) == (2, 5, 2)


@pytest.mark.parametrize("tool", ["describe", "merge", "sample", "shift", "split"])
def test_no_tool_reads_audio_outside_of_the_manifests_folder_unless_it_is_allowed(tmp_path: Path, tool: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (4, 4_000)).astype(np.float32)
    clips = [Clip(f"u{number}", wave, 16_000, "one", f"s{number}") for number, wave in enumerate(noise)]
    inside = write_clips(clips, tmp_path / "elsewhere" / "in.jsonl")
    rows = [json.loads(line) for line in inside.read_text().splitlines()]
    path, output = tmp_path / "here" / "out.jsonl", tmp_path / "new" / "new.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row | {"audio": str(inside.parent / row["audio"])}) + "\n" for row in rows))
    run: dict[str, Callable[..., object]] = {
        "describe": lambda **allowed: describe(path, **allowed),
        "merge": lambda **allowed: merge_manifests([path], output, **allowed),
        "sample": lambda **allowed: sample_manifest(path, output, samples=2, **allowed),
        "shift": lambda **allowed: shift_manifest(path, ["level:3"], output, **allowed),
        "split": lambda **allowed: split_manifest(path, parse_parts(["a=0.5", "b=0.5"]), output.parent, **allowed),
    }
    whole = {file: file.read_bytes() for file in inside.parent.rglob("*.flac")}
    for file in whole:
        file.write_bytes(b"no audio: whoever reads it says so")
    with pytest.raises(ManifestError) as caught:
        run[tool]()
    assert len(caught.value.problems) == 4
    assert all("--allow-outside-audio" in problem for problem in caught.value.problems)
    assert not list(tmp_path.rglob("new*.jsonl"))
    for file, content in whole.items():
        file.write_bytes(content)
    run[tool](allow_outside=True)
