import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.data.audio import PreprocessConfig, prepare_wave
from lora.data.manifest import Utterance, load_waves, read_manifest, write_manifest
from lora.data.manifest_rows import KNOWN_KEYS
from lora.errors import AudioError, LoraError, ManifestError
from lora.files import sha256_file

TONE = (0.2 * np.sin(0.17 * np.arange(4000))).astype(np.float32)
INLINE = [0.0, 0.25, -0.5, 1.0]


def write_lines(tmp_path: Path, *lines: str | bytes | dict[str, Any]) -> Path:
    """Write a manifest beside a real `a.wav`; a dict becomes JSON, text and bytes are taken as they are."""
    soundfile.write(tmp_path / "a.wav", TONE, 16_000, subtype="FLOAT")
    texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"".join((text.encode() if isinstance(text, str) else text) + b"\n" for text in texts))
    return path


def row(**changes: Any) -> dict[str, Any]:
    return {"audio": "a.wav", "text": "seven three"} | changes


def fault(tmp_path: Path, *lines: str | bytes | dict[str, Any]) -> str:
    """Return the one fault that a manifest of these lines has."""
    with pytest.raises(ManifestError) as error:
        read_manifest(write_lines(tmp_path, *lines))
    assert len(error.value.problems) == 1, error.value.problems
    return error.value.problems[0]


def test_a_path_is_relative_to_the_manifest_and_all_keys_are_kept(tmp_path: Path) -> None:
    path = write_lines(tmp_path, row(id="u1", speaker_id="ann", accent="scottish", digits=[7, 3]))
    manifest = read_manifest(path)
    (utterance,) = manifest.utterances
    assert (utterance.id, utterance.text, utterance.speaker_id) == ("u1", "seven three", "ann")
    assert utterance.audio == (tmp_path / "a.wav").resolve()
    assert utterance.extra == {"accent": "scottish", "digits": [7, 3]}
    assert utterance.place == f"{path}:1"
    assert manifest.sha256 == sha256_file(path)


def test_an_inline_waveform_is_float32_at_its_own_rate_or_sixteen_kilohertz(tmp_path: Path) -> None:
    path = write_lines(tmp_path, row(audio=INLINE, sampling_rate=8000), row(audio=[1, 0, -1]))
    first, second = read_manifest(path).utterances
    assert isinstance(first.audio, np.ndarray)
    assert (first.audio.dtype, first.audio.tolist(), first.sampling_rate) == (np.float32, INLINE, 8000)
    assert (second.audio.tolist(), second.sampling_rate) == ([1.0, 0.0, -1.0], None)  # type: ignore[union-attr]


def test_inline_and_file_give_the_same_prepared_wave(tmp_path: Path) -> None:
    path = write_lines(tmp_path, row(), row(audio=[float(value) for value in TONE]))
    config = PreprocessConfig()
    from_file, from_line = load_waves(read_manifest(path).utterances, config)
    np.testing.assert_array_equal(from_file, from_line)
    np.testing.assert_array_equal(from_file, prepare_wave(TONE, 16_000, config, name="a"))


def test_a_row_without_id_is_named_by_its_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path, row(), row(id="mine"), row())
    assert [utterance.id for utterance in read_manifest(path).utterances] == ["train:1", "mine", "train:3"]


def test_windows_line_ends_and_a_missing_last_line_end_are_read(tmp_path: Path) -> None:
    path = write_lines(tmp_path, row(), row())
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    assert len(read_manifest(path)) == 2


def test_every_fault_of_a_file_is_listed_with_its_line(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path,
        row(),
        row(text="  "),
        "{not json}",
        "",
        row(audio="missing.wav", speaker_id=True),
        row(id="train:1"),
        "[1, 2]",
    )
    with pytest.raises(ManifestError) as error:
        read_manifest(path)
    places = [problem.split(": ")[0].removeprefix(f"{path}:") for problem in error.value.problems]
    assert places == ["2", "3", "4", "5", "5", "6", "7"]
    assert error.value.message == f"{path}: 7 fault(s) in the manifest"
    assert error.value.exit_code == 2


def test_wrong_json_is_named_by_line_and_column(tmp_path: Path) -> None:
    lines = [row()] * 16
    message = fault(tmp_path, *lines, '{"audio": "a.wav" "text": "one"}')
    assert message.endswith(
        "train.jsonl:17: not valid JSON (Expecting ',' delimiter at column 19). Expected one object a line."
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"\xef\xbb\xbf" + json.dumps(row()).encode(), "byte order mark"),
        (b'{"audio": "a.wav", "text": "\xff"}', "not valid JSON .*utf-8"),
        ('{"audio": "a.wav", "text": "one", "text": "two"}', "key 'text' appears twice"),
        ('{"audio": "a.wav", "text": "one", "more": {"a": 1, "a": 2}}', "key 'a' appears twice"),
        ('{"audio": [0.1, NaN], "text": "one"}', "the number NaN is not allowed"),
        ('{"audio": "a.wav", "text": "one", "gain": -Infinity}', "the number -Infinity is not allowed"),
        ('{"audio": "a.wav", "text": "one", "gain": 1e999}', "endless number or invalid Unicode"),
        ('{"audio": "a.wav", "text": "one", "note": "\\ud800"}', "endless number or invalid Unicode"),
        ('{"audio": "a.wav", "text": "one \\ud800"}', "text has a lone surrogate"),
        ('{"audio": "a.wav", "text": "one", "id": "\\udfff"}', "id is .*expected a non-empty string"),
        ('{"audio": "a.wav", "text": "one", "speaker_id": "\\udfff"}', "speaker_id is .*expected a non-empty string"),
        ('{"audio": "a.wav", "text": "one"', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("null", "got a JSON NoneType; expected an object"),
        ('"a.wav"', "got a JSON str; expected an object"),
        ("   ", "the line is empty"),
    ],
)
def test_each_kind_of_broken_line_has_its_message(tmp_path: Path, line: str | bytes, expected: str) -> None:
    message = fault(tmp_path, row(), line, row())
    assert message.startswith(f"{tmp_path / 'train.jsonl'}:2: ")
    assert re.search(expected, message), message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"text": "  "}, "text is empty; got '  ', expected at least one word"),
        ({"text": "..."}, "text is empty"),
        ({"text": 7}, "text is int; expected a string"),
        ({"audio": None}, "audio is None; expected a path or a list of samples"),
        ({"audio": ""}, "audio is ''"),
        ({"audio": {"path": "a.wav"}}, "expected a path or a list of samples"),
        ({"audio": "b.wav"}, "audio file 'b.wav' does not exist or is not a regular file"),
        ({"audio": "."}, "does not exist or is not a regular file"),
        ({"audio": "a.wav\0"}, "does not exist|cannot be used"),
        ({"audio": "x" * 5000}, "cannot be used"),
        ({"audio": []}, "not a flat, non-empty list of numbers"),
        ({"audio": [[0.1], [0.2]]}, "not a flat, non-empty list of numbers"),
        ({"audio": [0.1, "0.2"]}, "not a flat, non-empty list of numbers"),
        ({"audio": [0.1, True]}, "not a flat, non-empty list of numbers"),
        ({"audio": [0.1, None]}, "not a flat, non-empty list of numbers"),
        ({"audio": [0.1, 1e39]}, "numbers too large for audio"),
        ({"audio": [10**400]}, "an integer of 401 digits"),
        ({"id": None}, "id is None; expected a non-empty string"),
        ({"id": 7}, "id is 7; expected a non-empty string"),
        ({"id": " "}, "id is ' '; expected a non-empty string"),
        ({"speaker_id": 1.5}, "speaker_id is 1.5"),
        ({"speaker_id": False}, "speaker_id is False"),
        ({"speaker_id": ""}, "speaker_id is ''"),
        ({"sampling_rate": 0}, "sampling_rate is 0; expected an integer from 1000 to 768000 Hz"),
        ({"sampling_rate": 16000.0}, "sampling_rate is 16000.0"),
        ({"sampling_rate": True}, "sampling_rate is True"),
    ],
)
def test_each_kind_of_wrong_value_has_its_message(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    message = fault(tmp_path, row(**changes))
    assert message.startswith(f"{tmp_path / 'train.jsonl'}:1: ")
    assert re.search(expected, message), message


def test_a_row_without_text_says_missing(tmp_path: Path) -> None:
    assert fault(tmp_path, {"audio": "a.wav"}).endswith("text is missing; expected a string.")


def test_a_truncated_last_line_is_a_fault(tmp_path: Path) -> None:
    path = write_lines(tmp_path, row(), row())
    path.write_bytes(path.read_bytes()[:-15])
    with pytest.raises(ManifestError, match=r"train\.jsonl:2: not valid JSON"):
        read_manifest(path)


def test_a_missing_an_empty_and_a_blank_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere\.jsonl: no such manifest"):
        read_manifest(tmp_path / "nowhere.jsonl")
    with pytest.raises(ManifestError, match="no utterances"):
        read_manifest(write_lines(tmp_path))
    with pytest.raises(ManifestError, match=":1: the line is empty"):
        read_manifest(write_lines(tmp_path, ""))


def outside(tmp_path: Path, audio: str) -> Path:
    """Write a manifest in `tmp_path/inside` that names `audio`, with a real wave file in `tmp_path`."""
    (tmp_path / "inside").mkdir()
    soundfile.write(tmp_path / "secret.wav", TONE, 16_000)
    return write_lines(tmp_path / "inside", row(audio=audio.format(root=tmp_path)))


@pytest.mark.parametrize("audio", ["../secret.wav", "{root}/secret.wav", "../inside/a.wav", "{root}/inside/a.wav"])
def test_a_path_that_leaves_the_folder_or_is_absolute_is_refused_unless_allowed(tmp_path: Path, audio: str) -> None:
    path = outside(tmp_path, audio)
    with pytest.raises(ManifestError, match="the manifest's folder"):
        read_manifest(path)
    assert len(read_manifest(path, allow_outside=True)) == 1


def test_a_link_that_leaves_the_folder_is_refused_and_one_that_stays_is_not(tmp_path: Path) -> None:
    path = outside(tmp_path, "link.wav")
    link = path.parent / "link.wav"
    link.symlink_to(tmp_path / "secret.wav")
    with pytest.raises(ManifestError, match="the manifest's folder"):
        read_manifest(path)
    link.unlink()
    link.symlink_to("a.wav")
    assert len(read_manifest(path)) == 1


def test_a_pipe_and_a_loop_of_links_are_no_audio_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    assert "not a regular file" in fault(tmp_path, row(audio="pipe.wav"))
    assert "loop.wav" in fault(tmp_path, row(audio="loop.wav"))


def test_loading_lists_every_clip_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    silent = row(audio=[0.0] * 4000)
    path = write_lines(tmp_path, row(), row(audio="text.wav"), silent, row(audio=INLINE))
    with pytest.raises(ManifestError, match="3 of 4 clips cannot be used") as error:
        load_waves(read_manifest(path).utterances, PreprocessConfig())
    messages = ["text.wav: cannot be decoded as audio", "silence", "0.000 s of audio"]
    for number, (problem, message) in enumerate(zip(error.value.problems, messages, strict=True), start=2):
        assert problem.startswith(f"{path}:{number}: ")
        assert message in problem


def test_an_unusable_file_says_the_manifests_line(tmp_path: Path) -> None:
    nan = TONE.copy()
    nan[5] = math.nan
    path = write_lines(tmp_path, row())
    soundfile.write(tmp_path / "a.wav", nan, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"train\.jsonl:1: 1 of 4000 samples are NaN"):
        read_manifest(path).utterances[0].load(PreprocessConfig())


def test_what_is_written_is_read_back_and_written_again_to_the_same_bytes(tmp_path: Path) -> None:
    read = read_manifest(
        write_lines(tmp_path, row(id="u", speaker_id=3, note="ü"), row(audio=INLINE, sampling_rate=8000))
    )
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    write_manifest(first, read.utterances)
    write_manifest(second, read_manifest(first).utterances)
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(first.read_text("utf-8").splitlines()[0]) == {
        "id": "u",
        "audio": "a.wav",
        "text": "seven three",
        "speaker_id": 3,
        "note": "ü",
    }


def test_a_failed_write_leaves_the_old_manifest_and_nothing_else(tmp_path: Path) -> None:
    path = write_lines(tmp_path, row())
    before = sorted(tmp_path.iterdir()), path.read_bytes()
    good = Utterance("a", "one", TONE)
    for bad, message in [
        (Utterance("b", "two", np.array([np.nan], dtype=np.float32)), "'b' cannot be written as JSON"),
        (Utterance("b", "two", TONE, extra={"x": math.inf}), "'b' cannot be written as JSON"),
        (Utterance("b", "\ud800", TONE), "'b' cannot be written as JSON"),
        (Utterance("b", "two", tmp_path.parent / "out.wav"), "lies under its folder"),
    ]:
        with pytest.raises(ManifestError, match=message):
            write_manifest(path, [good, bad])
    with pytest.raises(ManifestError, match="no utterances to write"):
        write_manifest(path, [])
    assert (sorted(tmp_path.iterdir()), path.read_bytes()) == before


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: any(map(str.isalnum, text)))
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: bool(text.strip()))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
utterances = st.builds(
    Utterance,
    id=names,
    text=words,
    audio=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=5).map(lambda x: np.array(x, dtype=np.float32)),
    speaker_id=st.none() | st.integers() | names,
    sampling_rate=st.integers(1000, 768_000),
    extra=st.dictionaries(names.filter(lambda name: name not in KNOWN_KEYS), values, max_size=3),
)


@settings(deadline=None)
@given(st.lists(utterances, min_size=1, max_size=4, unique_by=lambda utterance: utterance.id))
def test_any_utterances_survive_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Utterance]
) -> None:
    path = tmp_path_factory.mktemp("round") / "m.jsonl"
    write_manifest(path, drawn)
    read = read_manifest(path).utterances
    for before, after in zip(drawn, read, strict=True):
        assert isinstance(before.audio, np.ndarray)
        assert isinstance(after.audio, np.ndarray)
        np.testing.assert_array_equal(after.audio, before.audio)
        assert (after.id, after.text, after.speaker_id, after.sampling_rate, after.extra) == (
            before.id,
            before.text,
            before.speaker_id,
            before.sampling_rate,
            before.extra,
        )


hostile = st.binary(max_size=60) | st.builds(
    lambda key, value: json.dumps(row() | {key: value}).encode(),
    st.sampled_from([*KNOWN_KEYS, "note"]),
    values | st.lists(st.floats()) | st.floats(),
)


@settings(deadline=None)
@given(st.lists(hostile, max_size=3))
def test_on_hostile_bytes_only_the_projects_own_error_escapes(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    path = write_lines(folder, *lines)
    try:
        read = read_manifest(path)
    except LoraError:
        return
    write_manifest(folder / "again.jsonl", read.utterances)
    assert len(read_manifest(folder / "again.jsonl")) == len(read)
