"""Each local source on files of its real layout, made here."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from lora.data.manifest import read_manifest
from lora.data.sources.base import PendingClip, build_clips
from lora.data.sources.common_voice import read_common_voice
from lora.data.sources.csv_table import read_csv
from lora.data.sources.folder import read_folder
from lora.data.sources.librispeech_dir import read_librispeech_dir
from lora.data.sources.nemo import read_nemo
from lora.data.sources.selection import Notes, Selection
from lora.data.sources.tables import ColumnNames
from lora.errors import AudioError, SourceError


def tone(path: Path, *, hz: int = 440, seconds: float = 0.25, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate), rate)
    return path


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def nemo(path: Path, *rows: dict[str, Any]) -> Path:
    return table(path, *(json.dumps(row) for row in rows))


def taken(clips: Iterator[PendingClip]) -> list[tuple[str, str, str | int | None]]:
    return [(clip.id, clip.text, clip.speaker_id) for clip in clips]


def choice(**values: Any) -> dict[str, Any]:
    return {"selection": Selection(**values), "notes": Notes()}


def test_a_folder_gives_each_audio_file_with_the_text_beside_it(tmp_path: Path) -> None:
    tone(tmp_path / "ann" / "b.wav", rate=8000)
    tone(tmp_path / "a.flac")
    table(tmp_path / "a.txt", "One  two", " three")
    table(tmp_path / "ann" / "b.txt", "\ufefffour")
    table(tmp_path / "README.txt", "not a transcript")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    notes = Notes()
    clips = list(read_folder(tmp_path, split=None, selection=Selection(), notes=notes))
    assert taken(iter(clips)) == [("a", "One two three", None), ("ann+b", "four", None)]
    assert clips[1].load().sampling_rate == 8000
    assert notes.lines == ["passed over 1 text file(s) without audio: README.txt"]
    assert taken(read_folder(tmp_path, split="ann", **choice())) == [("b", "four", None)]


def test_the_first_subfolder_names_the_speaker_where_asked(tmp_path: Path) -> None:
    for speaker in ("p225", "p226"):
        tone(tmp_path / speaker / "x.wav")
        table(tmp_path / speaker / "x.txt", f"said {speaker}")
    clips = read_folder(tmp_path, split=None, speaker_folders=True, **choice(exclude_speakers=("p225",)))
    assert taken(clips) == [("p226+x", "said p226", "p226")]


@pytest.mark.parametrize("text_column", ["text", "transcription"])
def test_a_folder_with_metadata_csv_gives_the_files_that_it_names(tmp_path: Path, text_column: str) -> None:
    tone(tmp_path / "data" / "1.wav")
    tone(tmp_path / "data" / "2.wav")
    table(tmp_path / "metadata.csv", f"file_name,{text_column},speaker_id", 'data/1.wav,"one, two",ann')
    assert taken(read_folder(tmp_path, split=None, **choice())) == [("data+1", "one, two", "ann")]


def test_a_folder_with_metadata_jsonl_gives_the_files_that_it_names(tmp_path: Path) -> None:
    tone(tmp_path / "train" / "1.wav")
    nemo(tmp_path / "train" / "metadata.jsonl", {"file_name": "1.wav", "words": "one", "who": 7})
    columns = ColumnNames(text="words", speaker="who")
    assert taken(read_folder(tmp_path, split="train", columns=columns, **choice())) == [("1", "one", 7)]


def test_every_fault_of_a_folder_is_listed_at_once(tmp_path: Path) -> None:
    for name in ("no-text", "empty", "latin", "linked", "twice"):
        tone(tmp_path / f"{name}.wav")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "linked.txt").symlink_to("/etc/passwd")
    table(tmp_path / "twice.txt", "twice")
    (tmp_path / "phone.m4a").write_bytes(b"x")
    (tmp_path / "more").symlink_to(tmp_path)
    with pytest.raises(SourceError, match="6 fault") as error:
        read_folder(tmp_path, split=None, **choice())
    told = "\n".join(error.value.problems)
    for part in (
        "empty.wav: text is ' \\n'; expected at least one word",
        "no-text.wav: has no transcript; expected no-text.txt beside it",
        "latin.txt: cannot be read as UTF-8",
        "linked.txt: is no regular file",
        ".m4a cannot be read",
        "more: is a link to a folder",
    ):
        assert part in told


def test_a_csv_is_read_with_its_quotes_line_breaks_and_columns(tmp_path: Path) -> None:
    tone(tmp_path / "wavs" / "a.wav")
    tone(tmp_path / "wavs" / "b.wav")
    path = table(
        tmp_path / "t.csv",
        "\ufeffwho,file,said,key",
        'ann,wavs/a.wav,"one, ""two""',
        'three",k1',
        "",
        "bob,wavs/b.wav,four,k2",
    )
    columns = ColumnNames("file", "said", "who", "key")
    assert taken(read_csv(path, columns=columns, **choice())) == [
        ("k1", 'one, "two" three', "ann"),
        ("k2", "four", "bob"),
    ]


@pytest.mark.parametrize(
    ("name", "mark", "options"),
    [("t.tsv", "\t", {}), ("t.csv", ";", {"delimiter": ";"}), ("t.csv", "\t", {"delimiter": "tab"})],
)
def test_the_delimiter_is_that_of_the_suffix_or_the_one_given(
    tmp_path: Path, name: str, mark: str, options: dict[str, Any]
) -> None:
    tone(tmp_path / "a.wav")
    table(tmp_path / name, mark.join(["audio", "text"]), mark.join(["a.wav", "one, two"]))
    assert taken(read_csv(tmp_path, **options, **choice())) == [("a", "one, two", None)]


def test_a_stray_quote_is_a_fault_unless_the_table_has_no_quotes(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    path = table(tmp_path / "t.tsv", "audio\ttext", 'a.wav\t"so" he said')
    with pytest.raises(SourceError) as error:
        read_csv(path, **choice())
    assert error.value.problems[0].startswith(f"{path}:2: not a row of a table")
    assert taken(read_csv(path, quotes=False, **choice())) == [("a", '"so" he said', None)]


def test_every_fault_of_a_table_is_listed_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    outside = tone(tmp_path / "outside.wav")
    tone(tmp_path / "in" / "a.wav")
    (tmp_path / "in" / "link.wav").symlink_to(outside)
    (tmp_path / "in" / "dir.wav").mkdir()
    lines = ["audio,text,id", "a.wav,one,a", "../outside.wav,two,b", f"{outside},three,c", "link.wav,four,d"]
    lines += ["dir.wav,five,e", "gone.wav,six,f", "a.wav,seven", "a.wav, ,h", ",nine,i", "a.wav,ten,"]
    path = table(tmp_path / "in" / "t.csv", *lines)
    with pytest.raises(SourceError, match="9 fault") as error:
        read_csv(path, **choice())
    found = {problem.split(": ")[0]: problem for problem in error.value.problems}
    parts = {3: "not a path inside", 4: "not a path inside", 5: "not a path inside", 6: "not a regular file"}
    parts |= {7: "does not exist", 8: "2 values; expected 3", 9: "expected at least one word", 10: "no audio"}
    parts |= {11: "id is empty"}
    assert sorted(found) == sorted(f"{path}:{line}" for line in parts)
    assert all(part in found[f"{path}:{line}"] for line, part in parts.items())


def test_audio_outside_is_taken_only_when_allowed(tmp_path: Path) -> None:
    outside = tone(tmp_path / "outside.wav")
    (tmp_path / "in").mkdir()
    path = table(tmp_path / "in" / "t.csv", "audio,text,id", f"{outside},one,x", "../outside.wav,two,y")
    assert [name for name, *_ in taken(read_csv(path, allow_outside=True, **choice()))] == ["x", "y"]


def test_an_id_that_was_used_is_a_fault_with_both_places(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    path = table(tmp_path / "t.csv", "audio,text,id", "a.wav,one,x", "a.wav,two,y", "a.wav,three,X")
    with pytest.raises(SourceError) as error:
        read_csv(path, **choice())
    (problem,) = error.value.problems
    assert problem.startswith(f"{path}:4: id 'X' was used at {path}:2")


def test_wrong_columns_are_listed_with_those_present(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "file,said", "a.wav,one")
    with pytest.raises(SourceError, match="Present are: 'file', 'said'") as error:
        read_csv(path, columns=ColumnNames(text="sentence", speaker="who"), **choice())
    assert error.value.problems == (
        "audio: no column audio; name it by --audio-column",
        "text column 'sentence' does not exist",
        "speaker column 'who' does not exist",
    )
    with pytest.raises(SourceError, match="has one column"):
        read_csv(table(tmp_path / "s.csv", "audio;text"), **choice())


def test_a_nemo_row_is_a_file_or_the_part_of_one_that_offset_and_duration_say(tmp_path: Path) -> None:
    tone(tmp_path / "wavs" / "long.wav", seconds=1.0)
    path = nemo(
        tmp_path / "manifest.json",
        {"audio_filepath": "wavs/long.wav", "duration": 1.004, "text": "all of it", "speaker_id": "ann"},
        {"audio_filepath": "wavs/long.wav", "duration": 0.25, "offset": 0.5, "text": "a part"},
    )
    whole, part = read_nemo(path, **choice())
    assert (whole.id, whole.speaker_id, part.id, part.text) == ("wavs+long", "ann", "wavs+long@0.500", "a part")
    wave = whole.load().wave
    assert len(wave) == 16_000
    np.testing.assert_array_equal(part.load().wave, wave[8000:12_000])


def test_nemo_faults_are_listed_with_their_lines(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", seconds=1.0)
    row = {"audio_filepath": "a.wav", "text": "one"}
    rows = [
        row | {"duration": 0.4},
        row | {"duration": 0.6, "offset": 0.6},
        row | {"duration": "1"},
        row | {"offset": 1},
    ]
    path = nemo(tmp_path / "m.jsonl", *rows, {"audio": "a.wav", "text": "two"}, {"audio_filepath": "a.wav", "text": 3})
    with path.open("a") as file:
        file.write("{not json\n[1]\n")
    with pytest.raises(SourceError) as error:
        read_nemo(path, **choice())
    parts = ["duration is 0.4 s, but a.wav has 1.000 s", "the part ends at 1.2 s", "duration is '1'"]
    parts += ["offset without a duration", "no column audio_filepath", "text is 3", "not valid JSON", "a JSON object"]
    for line, (part, problem) in enumerate(zip(parts, error.value.problems, strict=True), start=1):
        assert problem.startswith(f"{path}:{line}: ")
        assert part in problem


def librispeech(root: Path) -> Path:
    for subset, speaker, chapter in (("dev-clean", 84, 121123), ("test-clean", 61, 70968)):
        folder = root / "LibriSpeech" / subset / str(speaker) / str(chapter)
        names = [f"{speaker}-{chapter}-{number:04d}" for number in range(2)]
        for name in names:
            tone(folder / f"{name}.flac")
        table(folder / f"{speaker}-{chapter}.trans.txt", *(f"{name} GO DO YOU HEAR" for name in names))
    lines = [";ID  |SEX| SUBSET", "61   | M | test-clean | 8.08 | Paul", "84   | F | dev-clean | 8.02 | Christie"]
    table(root / "LibriSpeech" / "SPEAKERS.TXT", *lines)
    return root / "LibriSpeech"


def test_unpacked_librispeech_keeps_its_ids_speakers_and_chapters(tmp_path: Path) -> None:
    root = librispeech(tmp_path)
    clips = list(read_librispeech_dir(root, split="dev-clean", **choice(text_mode="lower")))
    expected = [("84-121123-0000", "go do you hear", 84), ("84-121123-0001", "go do you hear", 84)]
    assert taken(iter(clips)) == expected
    assert clips[0].extra == {"chapter_id": 121123}
    assert taken(read_librispeech_dir(root / "dev-clean", split=None, **choice(text_mode="lower"))) == expected
    with pytest.raises(SourceError, match="no subset given; expected one of dev-clean, test-clean"):
        read_librispeech_dir(root, split=None, **choice())


def test_auto_lowers_librispeech_and_says_so_but_keeps_cased_text(tmp_path: Path) -> None:
    notes = Notes()
    root = librispeech(tmp_path)
    selection = Selection(text_mode="auto")
    clips = read_librispeech_dir(root, split="dev-clean", selection=selection, notes=notes)
    assert {clip.text for clip in clips} == {"go do you hear"}
    assert notes.lines == ["text: ALL CAPS, so it is lower-cased"]
    tone(tmp_path / "a.wav")
    tone(tmp_path / "b.wav")
    path = table(tmp_path / "t.csv", "audio,text", "a.wav,NASA", "b.wav,Hello NASA")
    notes = Notes()
    texts = [clip.text for clip in read_csv(path, selection=selection, notes=notes)]
    assert (texts, notes.lines) == (["NASA", "Hello NASA"], ["text: not ALL CAPS, so it is kept as it is"])


def test_librispeech_faults_are_listed(tmp_path: Path) -> None:
    root = librispeech(tmp_path)
    folder = root / "dev-clean" / "84" / "121123"
    (folder / "84-121123-0000.flac").unlink()
    tone(folder / "84-121123-0009.flac")
    with (folder / "84-121123.trans.txt").open("a") as file:
        file.write("99-1-0000 STRANGER\nnonsense\n")
    with pytest.raises(SourceError) as error:
        read_librispeech_dir(root, split="dev-clean", **choice())
    told = "\n".join(error.value.problems)
    assert len(error.value.problems) == 4
    for part in ("0000.flac' does not exist", "0009.flac: has no line", "speaker 99 is not in", ":4: starts with"):
        assert part in told


def common_voice(root: Path) -> Path:
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment"
    for number in range(3):
        tone(root / "clips" / f"common_voice_en_{number}.mp3")
    rows = ['c0\tcommon_voice_en_0.mp3\t"""Well,"" he said."\t2\t0\t\t\t\ten\t']
    rows += ['c1\tcommon_voice_en_1.mp3\tA "stray quote.\t2\t0\ttwenties\tfemale\tScottish English\ten\t']
    table(root / "train.tsv", header, *rows)
    table(root / "test.tsv", header, 'c2\tcommon_voice_en_2.mp3\t"One" or "two"\t2\t0\t\t\t\ten\t')
    return root


def test_common_voice_gives_sentences_clients_and_what_it_knows_of_them(tmp_path: Path) -> None:
    root = common_voice(tmp_path)
    clips = list(read_common_voice(root, split=None, **choice()))
    assert taken(iter(clips)) == [
        ("common_voice_en_0", '"Well," he said.', "c0"),
        ("common_voice_en_1", 'A "stray quote.', "c1"),
    ]
    assert clips[1].extra == {"age": "twenties", "gender": "female", "accents": "Scottish English", "locale": "en"}
    assert clips[0].load().sampling_rate == 16_000
    (clip,) = read_common_voice(root / "test.tsv", split=None, **choice())
    assert clip.text == '"One" or "two"'
    with pytest.raises(SourceError, match="no split 'dev'; expected one of test, train"):
        read_common_voice(root, split="dev", **choice())


def speakers_table(root: Path) -> Path:
    """Write eight clips of ann, two of bob and one of cid, the n-th n * 0.1 s long."""
    rows = []
    for number, speaker in enumerate(["ann"] * 8 + ["bob"] * 2 + ["cid"], start=1):
        tone(root / f"{number}.wav", seconds=number / 10)
        rows.append(f"{number}.wav,text {number},{speaker}")
    return table(root / "t.csv", "audio,text,speaker_id", *rows)


def test_a_draw_repeats_by_seed_grows_by_adding_and_keeps_the_order(tmp_path: Path) -> None:
    path = speakers_table(tmp_path)

    def draw(samples: int, seed: int) -> list[int]:
        return [int(clip.id) for clip in read_csv(path, **choice(samples=samples, seed=seed))]

    assert draw(5, 1) == draw(5, 1) == sorted(draw(5, 1))
    assert set(draw(5, 1)) < set(draw(8, 1))
    assert len({tuple(draw(3, seed)) for seed in range(6)}) > 1
    with pytest.raises(SourceError, match="11 of the 12 clips asked for"):
        draw(12, 1)


def test_balanced_speakers_give_in_turn_while_they_have_clips(tmp_path: Path) -> None:
    path = speakers_table(tmp_path)

    def drawn(samples: int) -> list[str | int | None]:
        clips = read_csv(path, **choice(samples=samples, balance_speakers=True))
        return sorted(str(clip.speaker_id) for clip in clips)

    assert drawn(3) == ["ann", "bob", "cid"]
    assert drawn(5) == ["ann", "ann", "bob", "bob", "cid"]
    assert drawn(7) == ["ann"] * 4 + ["bob", "bob", "cid"]


def test_hours_seconds_and_speakers_narrow_the_choice_and_are_counted(tmp_path: Path) -> None:
    path = speakers_table(tmp_path)
    notes = Notes()
    selection = Selection(min_seconds=0.25, max_seconds=0.95, speakers=("ann", "bob"))
    clips = read_csv(path, selection=selection, notes=notes)
    assert [int(clip.id) for clip in clips] == [3, 4, 5, 6, 7, 8, 9]
    assert notes.total == 7
    assert str(notes) == "left out: 1 longer than 0.95 s, 1 of other speakers, 2 shorter than 0.25 s"
    seconds = sum(clip.seconds for clip in read_csv(path, **choice(hours=2 / 3600)))
    assert 0.9 < seconds <= 2.0
    with pytest.raises(SourceError, match=r"0\.002 of the 1 hours asked for"):
        read_csv(path, **choice(hours=1.0))
    with pytest.raises(SourceError) as error:
        read_csv(path, **choice(speakers=("dora",)))
    assert error.value.problems == ("no speaker dora; present are ann, bob, cid",)


def test_rows_without_words_are_passed_over_and_counted_when_asked(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    path = table(tmp_path / "t.csv", "audio,text,id", "a.wav,one,1", "a.wav,...,2")
    notes = Notes()
    clips = read_csv(path, selection=Selection(skip_empty_text=True), notes=notes)
    assert [clip.id for clip in clips] == ["1"]
    assert str(notes) == "left out: 1 without words"


def test_a_clip_longer_than_an_utterance_can_be_is_refused_by_its_header(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros(901 * 1000), 1000, subtype="PCM_16")
    (clip,) = read_csv(table(tmp_path / "t.csv", "audio,text", "a.flac,one"), **choice())
    with pytest.raises(AudioError, match=r"t\.csv:2: a\.flac: 901 s; a clip may have at most 900 s"):
        clip.load()


@pytest.mark.parametrize(
    ("audio", "identifier"),
    [("x/y/a.wav", "x+y+a"), ("a b.wav", "a_b_"), ("x+y/a.wav", "x+y_a_"), ("ä/a.wav", "_+a_"), ("-a.wav", "a_")],
)
def test_ids_made_from_paths_are_portable_and_tell_paths_apart(tmp_path: Path, audio: str, identifier: str) -> None:
    tone(tmp_path / audio)
    tone(tmp_path / "x" / "other.wav")
    path = table(tmp_path / "t.csv", "audio,text", f"{audio},one", "x/other.wav,two")
    made = next(read_csv(path, **choice())).id
    assert made == identifier if audio == "x/y/a.wav" else made.startswith(identifier) and len(made) > 16


@pytest.mark.parametrize("what", ["time", "size"])
def test_a_clip_that_was_edited_since_an_unfinished_build_is_made_again(tmp_path: Path, what: str) -> None:
    """By its time of change where the length is the same, and by its length where the time is."""
    source, output = tmp_path / "source", tmp_path / "built" / "m.jsonl"
    for name in "abcdef":
        tone(source / f"{name}.wav")
        table(source / f"{name}.txt", f"words {name}")
    clips = list(read_folder(source, split=None, **choice()))

    def torn() -> Iterator[PendingClip]:
        yield from clips
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_clips(torn(), output, workers=1)
    (done,) = output.parent.glob(".m.jsonl.*/audio")
    finished = sorted(path.name for path in done.iterdir())
    assert len(finished) > 2  # the first ones; those that were being encoded are lost
    edited = source / "a.wav"
    before = edited.stat()
    samples, rate = soundfile.read(edited, dtype="int16")
    soundfile.write(edited, samples // 2 if what == "time" else samples[:-100], rate)
    later = before.st_mtime_ns + (10**9 if what == "time" else 0)
    os.utime(edited, ns=(later, later))
    assert (edited.stat().st_size == before.st_size) is (what == "time")
    assert build_clips(read_folder(source, split=None, **choice()), output, workers=1).reused == len(finished) - 1
    (first, *_) = read_manifest(output).utterances
    wanted, _ = soundfile.read(edited, dtype="int16")
    assert isinstance(first.audio, Path)
    np.testing.assert_allclose(soundfile.read(first.audio, dtype="int16")[0], wanted, atol=1)
