import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from lora.data.audio import decode_audio
from lora.data.sources import hub, hub_rows
from lora.data.sources.base import AnyClip
from lora.data.sources.columns import Columns
from lora.data.sources.hub import read_hub
from lora.data.sources.selection import Notes, Selection
from lora.errors import AudioError, SetupError, SourceError

pytestmark = pytest.mark.usefixtures("offline")

NAMED = Columns(speaker="speaker_id", id="id")


def names(clips: Iterable[AnyClip]) -> list[str]:
    return [clip.id for clip in clips]


def test_every_row_becomes_a_clip_with_its_own_text_speaker_and_samples(corpus: Any) -> None:
    folder = corpus.write("clean/test-00000-of-00001.parquet", [corpus.row(number) for number in range(3)])
    clips = list(read_hub(folder, config="clean", split="test", columns=NAMED))
    assert names(clips) == ["1089-134686-0000", "1089-134686-0001", "1089-134686-0002"]
    assert [clip.speaker_id for clip in clips] == [1000, 1001, 1002]
    assert clips[2].text == "HE HOPED FOR STEW NUMBER 2"
    assert clips[2].seconds == 0.25
    loaded = clips[2].load()
    assert loaded.sampling_rate == 16_000
    np.testing.assert_array_equal(loaded.wave, decode_audio(corpus.flac(220), name="row")[0])


@pytest.mark.parametrize("audio_type", [True, False], ids=["Audio in the metadata", "a plain struct"])
@pytest.mark.parametrize("streaming", [True, False], ids=["streamed", "downloaded"])
def test_audio_is_read_without_torchcodec(
    corpus: Any, audio_type: bool, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", False)
    folder = corpus.write("test-00000-of-00001.parquet", [corpus.row(1)], audio_type=audio_type)
    clips = list(read_hub(folder, split="test", streaming=streaming, selection=Selection(samples=1)))
    assert len(clips[0].load().wave) == 4000


@pytest.mark.parametrize(
    "files",
    [
        ("clean/train.100-00000-of-00002.parquet", "clean/train.100-00001-of-00002.parquet"),
        ("clean/train.100/0000.parquet", "clean/train.100/0001.parquet"),
        ("clean/data/train.100-00000-of-00002-0a1b2c.parquet", "clean/data/train.100-00001-of-00002-0a1b2c.parquet"),
    ],
    ids=["shards of a config", "the hub's conversion", "data folder"],
)
def test_a_split_of_two_files_is_read_whole_in_every_layout(corpus: Any, files: tuple[str, str]) -> None:
    corpus.write("clean/test-00000-of-00001.parquet", [corpus.row(9)])
    corpus.write(files[0], [corpus.row(0)])
    folder = corpus.write(files[1], [corpus.row(1)])
    clips = read_hub(folder, config="clean", split="train.100", columns=NAMED)
    assert names(clips) == ["1089-134686-0000", "1089-134686-0001"]


def test_a_folder_with_one_config_needs_none_named(corpus: Any) -> None:
    folder = corpus.write("data/test-00000-of-00001.parquet", [corpus.row(4)])
    assert names(read_hub(folder, split="test", columns=NAMED)) == ["1089-134686-0004"]


@pytest.mark.parametrize("streaming", [True, False], ids=["streamed", "downloaded"])
def test_a_draw_repeats_by_seed_and_takes_no_row_twice(corpus: Any, streaming: bool) -> None:
    folder = corpus.write("test-00000-of-00001.parquet", [corpus.row(number) for number in range(20)])

    def draw(seed: int, samples: int) -> list[str]:
        selection = Selection(samples=samples, seed=seed)
        return names(read_hub(folder, split="test", columns=NAMED, selection=selection, streaming=streaming))

    assert draw(1, 8) == draw(1, 8)
    assert draw(1, 8) != draw(2, 8)
    assert draw(1, 8) == draw(1, 20)[:8]
    assert sorted(draw(1, 20)) == [f"1089-134686-{number:04d}" for number in range(20)]


def test_a_stream_longer_than_the_buffer_is_not_drawn_from_its_beginning_only(
    corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_rows, "DRAW_BUFFER_ROWS", 4)
    folder = corpus.write("test-00000-of-00001.parquet", [corpus.row(number) for number in range(40)])
    drawn = [
        int(name[-4:])
        for seed in range(5)
        for name in names(read_hub(folder, split="test", columns=NAMED, selection=Selection(samples=4, seed=seed)))
    ]
    assert max(drawn) >= 20
    assert len(set(drawn)) > 10
    every = read_hub(folder, split="test", columns=NAMED, selection=Selection(samples=40, seed=0))
    assert len(set(names(every))) == 40


def test_the_buffer_of_a_draw_is_bounded_in_bytes(corpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = corpus.write("test-00000-of-00001.parquet", [corpus.row(number) for number in range(6)])
    monkeypatch.setattr(hub_rows, "DRAW_BUFFER_BYTES", 1)  # less than one row: each comes out as it goes in
    order = [int(name[-4:]) for name in names(read_hub(folder, split="test", columns=NAMED, selection=Selection(6)))]
    assert [order[place] // 2 for place in (0, 2, 4)] == [order[place] // 2 for place in (1, 3, 5)]  # groups of two


def test_without_an_id_column_a_clip_is_named_by_its_content_whatever_the_order(corpus: Any) -> None:
    twin = corpus.row(1)
    folder = corpus.write("test-00000-of-00001.parquet", [corpus.row(0), twin, corpus.row(2), twin])
    in_order = names(read_hub(folder, split="test"))
    drawn = names(read_hub(folder, split="test", selection=Selection(samples=4, seed=7)))
    assert sorted(in_order) == sorted(drawn)
    assert len(set(in_order)) == 4
    assert in_order[3] == f"{in_order[1]}-2"


def test_an_id_that_is_no_file_name_is_made_one_and_kept_beside_it(corpus: Any) -> None:
    rows = [corpus.row(0, id="../a b/ç.mp3"), corpus.row(1, id="../a b/é.mp3")]
    folder = corpus.write("test-00000-of-00001.parquet", rows)
    first, second = read_hub(folder, split="test", columns=NAMED)
    assert first.extra == {"source_id": "../a b/ç.mp3"}
    assert first.id.startswith("_a_b__.mp3_")
    assert first.id != second.id


def test_class_labels_become_their_names(corpus: Any) -> None:
    labels = datasets.ClassLabel(names=["down", "up"])
    folder = corpus.write("test-00000-of-00001.parquet", [corpus.row(0, text=1)], text=labels)
    assert next(read_hub(folder, split="test")).text == "up"


def test_text_is_lowered_only_when_asked(corpus: Any) -> None:
    folder = corpus.write("test-00000-of-00001.parquet", [corpus.row(0)])
    assert next(read_hub(folder, split="test")).text == "HE HOPED FOR STEW NUMBER 0"
    lowered = read_hub(folder, split="test", selection=Selection(text_mode="lower"))
    assert next(lowered).text == "he hoped for stew number 0"


def test_clips_outside_the_seconds_allowed_do_not_count_as_samples(corpus: Any) -> None:
    seconds = [0.1, 0.5, 0.9, 1.5]
    rows = [corpus.row(i, audio={"bytes": corpus.flac(300, length), "path": None}) for i, length in enumerate(seconds)]
    folder = corpus.write("test-00000-of-00001.parquet", rows)
    allowed = Selection(samples=2, seed=3, min_seconds=0.5, max_seconds=0.9)
    assert sorted(names(read_hub(folder, split="test", columns=NAMED, selection=allowed))) == [
        "1089-134686-0001",
        "1089-134686-0002",
    ]
    with pytest.raises(
        SourceError, match=r"2 of the 3 clips asked for; the split has 4, and 1 are longer than 0.9 s, 1 are shorter"
    ):
        list(read_hub(folder, split="test", selection=Selection(3, min_seconds=0.5, max_seconds=0.9)))


def test_a_row_that_holds_only_a_path_is_read_from_the_folder(corpus: Any) -> None:
    folder = corpus.write("test-00000-of-00001.parquet", [corpus.row(0, audio={"bytes": None, "path": "wavs/a.flac"})])
    (folder / "wavs").mkdir()
    (folder / "wavs" / "a.flac").write_bytes(corpus.flac(440))
    assert len(next(read_hub(folder, split="test")).load().wave) == 4000


@pytest.mark.parametrize("outside", ["../secret.flac", "{root}/secret.flac", "wavs/missing.flac"])
def test_a_path_that_leaves_the_folder_is_refused(corpus: Any, tmp_path: Path, outside: str) -> None:
    (tmp_path / "secret.flac").write_bytes(corpus.flac(440))
    row = corpus.row(0, audio={"bytes": None, "path": outside.format(root=tmp_path)})
    folder = corpus.write("test-00000-of-00001.parquet", [row])
    assert "is no file in" in str(next(read_hub(folder, split="test")))


def test_an_unknown_config_lists_those_that_the_folder_holds(corpus: Any) -> None:
    corpus.write("clean/test-00000-of-00001.parquet", [corpus.row(0)])
    folder = corpus.write("other/train.500-00000-of-00001.parquet", [corpus.row(1)])
    with pytest.raises(SourceError, match=r"no config 'all'; expected one of clean, other") as error:
        read_hub(folder, config="all", split="test")
    assert error.value.problems == ("clean: test", "other: train.500")
    with pytest.raises(SourceError, match="no config given; expected one of clean, other"):
        read_hub(folder, split="test")


def test_an_unknown_split_lists_those_of_the_config(corpus: Any) -> None:
    corpus.write("clean/test-00000-of-00001.parquet", [corpus.row(0)])
    folder = corpus.write("clean/train.100-00000-of-00001.parquet", [corpus.row(1)])
    with pytest.raises(SourceError, match=r"no split 'dev'; expected one of test, train\.100"):
        read_hub(folder, config="clean", split="dev")


def test_all_wrong_columns_are_listed_with_those_present(corpus: Any) -> None:
    folder = corpus.write("test-00000-of-00001.parquet", [corpus.row(0)])
    wrong = Columns(audio="sound", text="chapter_id", speaker="audio", id="key")
    with pytest.raises(SourceError, match=r"4 wrong column.*Present are: .*speaker_id \(int64\)") as error:
        read_hub(folder, split="test", columns=wrong)
    assert error.value.problems == (
        "audio column 'sound' does not exist",
        "text column 'chapter_id' holds int64; expected text",
        "speaker column 'audio' holds Audio; expected text or integers",
        "id column 'key' does not exist",
    )


def test_rows_that_cannot_be_used_are_named_and_those_after_them_are_read(corpus: Any) -> None:
    not_audio = {"bytes": b"<html>not found</html>", "path": "a.flac"}
    rows = [corpus.row(5, text=" ... "), corpus.row(6, audio=None), corpus.row(7, audio=not_audio), corpus.row(8)]
    folder = corpus.write("test-00000-of-00001.parquet", rows)
    *faults, clip = read_hub(folder, split="test", columns=NAMED)
    assert clip.id == "1089-134686-0008"
    assert [type(fault) for fault in faults] == [SourceError, SourceError, AudioError]
    for fault, said in zip(
        faults,
        [
            "test row 0: 1089-134686-0005: text is ' ... '; expected at least one word",
            "test row 1: 1089-134686-0006: the row has no audio",
            "test row 2: 1089-134686-0007: cannot be decoded as audio",
        ],
        strict=True,
    ):
        assert said in str(fault)


def test_a_row_that_cannot_be_used_has_its_place_in_a_draw(corpus: Any) -> None:
    def drawn(text: str) -> list[Any]:
        rows = [corpus.row(number, text=text if number == 3 else "words") for number in range(8)]
        folder = corpus.write("test-00000-of-00001.parquet", rows)
        return list(read_hub(folder, split="test", columns=NAMED, selection=Selection(samples=8, seed=1)))

    good, faulty = drawn("words"), drawn(" ")
    places = [number for number, clip in enumerate(faulty) if isinstance(clip, SourceError)]
    assert [clip.id for clip in good if clip.id.endswith("3")] == [good[places[0]].id]
    assert "row group 1 row 1: 1089-134686-0003" in str(faulty[places[0]])
    assert [clip.id for clip in faulty if clip is not faulty[places[0]]] == [
        clip.id for clip in good if clip is not good[places[0]]
    ]


def test_all_rows_that_cannot_be_measured_are_listed_before_the_draw(corpus: Any) -> None:
    rows = [
        corpus.row(number, audio=None if number % 2 else {"bytes": corpus.flac(300), "path": None})
        for number in range(4)
    ]
    folder = corpus.write("test-00000-of-00001.parquet", rows)
    chosen = Selection(samples=2, balance_speakers=True, max_seconds=9)
    with pytest.raises(SourceError, match="2 rows cannot be used") as error:
        next(read_hub(folder, split="test", columns=NAMED, selection=chosen))
    assert [problem.partition(": ")[0].partition("test ")[2] for problem in error.value.problems] == ["row 1", "row 3"]


@pytest.mark.parametrize("streaming", [True, False])
def test_more_than_there_is_is_refused_before_a_clip_is_read(corpus: Any, streaming: bool) -> None:
    rows = [corpus.row(number, text=" " if number == 3 else "words") for number in range(4)]
    folder = corpus.write("test-00000-of-00001.parquet", rows)
    given = {"split": "test", "columns": NAMED, "streaming": streaming}
    read_hub(folder, selection=Selection(samples=4), **given)
    with pytest.raises(SourceError, match="4 of the 5 clips asked for; the split has 4"):
        read_hub(folder, selection=Selection(samples=5), **given)
    with pytest.raises(SourceError, match="3 of the 4 clips asked for; the split has 4, and 1 are without words"):
        read_hub(folder, selection=Selection(samples=4, skip_empty_text=True), **given)
    with pytest.raises(SourceError, match=r"2 of the 4 clips asked for; .* 2 are of excluded speakers"):
        read_hub(folder, selection=Selection(samples=4, exclude_speakers=("1000",)), **given)


def test_a_folder_that_is_missing_or_empty_or_holds_half_a_file_says_so(corpus: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        read_hub(tmp_path / "nowhere", split="test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no Parquet files"):
        read_hub(tmp_path / "empty", split="test")
    folder = corpus.write("test-00000-of-00001.parquet", [corpus.row(0)])
    file = folder / "test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SourceError, match="a Parquet file cannot be read"):
        read_hub(folder, split="test")


def test_a_hub_that_cannot_be_reached_is_the_environments_fault_and_says_what_to_do() -> None:
    with pytest.raises(SetupError, match=r"hub cannot be reached.*HF_HUB_OFFLINE.*HF_TOKEN.*--path") as error:
        read_hub("openslr/librispeech_asr", config="clean", split="test")
    assert error.value.exit_code == 1


def test_a_name_that_is_neither_folder_nor_hub_id_is_the_users_fault() -> None:
    with pytest.raises(SourceError, match="no such folder, and not a hub dataset id"):
        read_hub("data/speech/corpus", split="test")


def test_configs_and_splits_of_a_dataset_card_are_listed_when_a_wrong_one_is_given(
    corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus.write("clean/train-x.parquet", [corpus.row(0)])
    folder = corpus.write("other/test-x.parquet", [corpus.row(1)])
    card = "configs:\n- config_name: clean\n  data_files:\n  - split: train.100\n    path: clean/*\n"
    card += "- config_name: other\n  data_files:\n  - split: test\n    path: other/*\n"
    (folder / "README.md").write_text(f"---\n{card}---\n")
    monkeypatch.chdir(folder.parent)  # `datasets` takes a folder named like an id for that dataset
    with pytest.raises(SourceError, match="no config given; expected one of clean, other"):
        hub._open_hub("corpus", None, "test", True, None)
    with pytest.raises(SourceError, match="no config 'all'; expected one of clean, other"):
        hub._open_hub("corpus", "all", "test", True, None)
    with pytest.raises(SourceError, match=r"no split 'test'; expected one of train\.100"):
        hub._open_hub("corpus", "clean", "test", True, None)
    assert [row["id"] for row in hub._open_hub("corpus", "other", "test", True, None).select_columns(["id"])] == [
        "1089-134686-0001"
    ]


def test_a_row_without_words_is_passed_over_and_counted_only_when_asked(corpus: Any) -> None:
    folder = corpus.write("test-00000-of-00001.parquet", [corpus.row(0), corpus.row(1, text=" "), corpus.row(2)])
    refused = str(list(read_hub(folder, split="test", columns=NAMED))[1])
    assert re.search(r"1089-134686-0001: text is ' '.*--skip-empty-text", refused)
    notes = Notes()
    kept = read_hub(folder, split="test", columns=NAMED, selection=Selection(skip_empty_text=True), notes=notes)
    assert names(kept) == ["1089-134686-0000", "1089-134686-0002"]
    assert str(notes) == "left out: 1 without words"


def test_speakers_are_balanced_chosen_and_left_out(corpus: Any) -> None:
    rows = [corpus.row(number, speaker_id=1 if number < 8 else number) for number in range(10)]
    folder = corpus.write("test-00000-of-00001.parquet", rows)

    def speakers(**choice: Any) -> list[Any]:
        clips = read_hub(folder, split="test", columns=NAMED, selection=Selection(**choice))
        return sorted(clip.speaker_id for clip in clips)

    assert speakers(samples=3, balance_speakers=True) == [1, 8, 9]
    assert speakers(samples=4, balance_speakers=True) == [1, 1, 8, 9]
    assert speakers(speakers=("8", "9")) == [8, 9]
    assert speakers(exclude_speakers=("1",), samples=2) == [8, 9]
    assert len(speakers(hours=0.25 * 4.5 / 3600)) == 4
    with pytest.raises(SourceError, match="no column names them"):
        read_hub(folder, split="test", selection=Selection(samples=1, balance_speakers=True))


def test_auto_lowers_a_stream_that_is_all_caps_and_says_so(corpus: Any) -> None:
    folder = corpus.write("test-00000-of-00001.parquet", [corpus.row(0), corpus.row(1)])
    notes = Notes()
    texts = [clip.text for clip in read_hub(folder, split="test", selection=Selection(text_mode="auto"), notes=notes)]
    assert texts == ["he hoped for stew number 0", "he hoped for stew number 1"]
    assert notes.lines == ["text: ALL CAPS, so it is lower-cased"]
    corpus.write("dev-00000-of-00001.parquet", [corpus.row(0), corpus.row(1, text="Said Mr Smith")])
    assert next(read_hub(folder, split="dev", selection=Selection(text_mode="auto"))).text.startswith("HE HOPED")
