"""What is kept: history, training data, prompts, differences, latencies, options."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_cli.adapting import check_enough, how_to_begin, next_run_dir, parse_progress
from lora_cli.diff import plain_difference, word_difference
from lora_cli.events import AdaptProgress
from lora_cli.history import Entry, Retention, now_text
from lora_cli.latency import LatencyLog, percentile
from lora_cli.options import DEFAULT_KEYS, adapter_names, read_keys
from lora_cli.store import Store
from lora_cli.teaching import digit_prompts, read_prompts
from lora_cli.wav import WavWriter

from lora.config import PreprocessConfig
from lora.data.manifest import read_manifest
from lora.errors import ConfigError, InputError, SetupError
from lora.runners.personal import PersonalOptions, choose_guards, divide, gather, plan_experiment


def add_take(store: Store, pcm: bytes) -> Entry:
    take_id, path = store.new_take()
    writer = WavWriter(path, 16_000)
    writer.write(pcm)
    writer.close()
    entry = Entry(take_id, "2026-01-02T03:04:05+00:00", path.name, len(pcm) / 32_000, {"base": "one too"})
    store.put(entry)
    return entry


def test_a_correction_becomes_a_row_that_the_projects_commands_read(data_dir: Path, tone: bytes) -> None:
    store = Store(data_dir, speaker="ada")
    entry = add_take(store, tone)
    store.correct(entry.id, " one  two ")
    (utterance,) = read_manifest(store.manifest_path).utterances
    assert (utterance.id, utterance.text, utterance.speaker_id) == (entry.id, "one two", "ada")
    assert utterance.extra["origin"] == "corrected"
    assert utterance.extra["time"] == entry.time
    assert utterance.extra["heard"] == {"base": "one too"}
    assert len(utterance.load(PreprocessConfig())) == 16_000
    assert store.entries()[0].corrected == "one two"


def test_a_second_correction_replaces_the_first_and_keeps_its_part(data_dir: Path, tone: bytes) -> None:
    store = Store(data_dir, speaker="ada")
    entries = [add_take(store, tone) for _ in range(8)]
    for entry in entries:
        store.correct(entry.id, "one")
    store.correct(entries[3].id, "two")
    rows = {row["id"]: row for row in store.taught_rows()}
    assert len(rows) == 8
    assert [rows[entry.id]["part"] for entry in entries] == ["train", "train", "train", "heldout"] * 2
    assert rows[entries[3].id]["text"] == "two"


def test_a_text_without_words_is_not_taught(data_dir: Path, tone: bytes) -> None:
    store = Store(data_dir, speaker="ada")
    entry = add_take(store, tone)
    with pytest.raises(InputError, match="at least one word"):
        store.correct(entry.id, " ... ")
    assert not store.manifest_path.exists()


def test_what_was_taught_outlives_its_take(data_dir: Path, tone: bytes) -> None:
    store = Store(data_dir, speaker="ada")
    entry = add_take(store, tone)
    store.correct(entry.id, "one")
    store.delete(entry.id)
    assert not store.wav_path(entry).exists()
    assert len(read_manifest(store.manifest_path)) == 1


def test_the_history_is_there_again_at_the_next_visit(data_dir: Path, tone: bytes) -> None:
    store = Store(data_dir, speaker="ada")
    entry = add_take(store, tone)
    assert Store(data_dir, speaker="ada").entries() == [entry]


def test_a_damaged_history_names_its_line(data_dir: Path, tone: bytes) -> None:
    store = Store(data_dir, speaker="ada")
    add_take(store, tone)
    with store.history_path.open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    with pytest.raises(InputError, match=r"history\.jsonl:2"):
        Store(data_dir, speaker="ada")


def test_the_history_keeps_so_many_takes_and_what_was_taught_stays(data_dir: Path, tone: bytes) -> None:
    store = Store(data_dir, speaker="ada", retention=Retention(takes=2))
    entries = [add_take(store, tone)]
    store.correct(entries[0].id, "one")
    entries += [add_take(store, tone) for _ in range(2)]
    assert [entry.id for entry in store.entries()] == [entries[2].id, entries[1].id]
    assert {path.stem for path in store.takes_dir.iterdir()} == {entries[1].id, entries[2].id}
    assert len(read_manifest(store.manifest_path)) == 1


def test_takes_older_than_so_many_days_go_when_the_app_opens(data_dir: Path, tone: bytes) -> None:
    store = Store(data_dir, speaker="ada")
    old, new = add_take(store, tone), add_take(store, tone)
    store.put(replace(new, time=now_text()))
    kept = Store(data_dir, speaker="ada", retention=Retention(days=30))
    assert [entry.id for entry in kept.entries()] == [new.id]
    assert not kept.wav_path(old).exists()


def test_a_recording_of_a_killed_app_is_in_the_history_of_the_next(data_dir: Path, tone: bytes) -> None:
    take_id, path = Store(data_dir, speaker="ada").new_take()
    writer = WavWriter(path, 16_000)
    writer.write(tone)  # and never closed
    (entry,) = Store(data_dir, speaker="ada").entries()
    assert (entry.id, entry.seconds) == (take_id, 1.0)
    assert "not transcribed" in str(entry.failure)
    writer.close()


def test_recordings_of_the_users_among_the_takes_are_no_takes(data_dir: Path, tone: bytes) -> None:
    (data_dir / "takes").mkdir(parents=True)
    mine = [data_dir / "takes" / name for name in ("interview.wav", "song.wav")]
    for path in mine:
        path.write_bytes(b"RIFF" + 100 * b"mine")
    store = Store(data_dir, speaker="ada", retention=Retention(takes=1))
    add_take(store, tone)
    add_take(store, tone)
    assert len(Store(data_dir, speaker="ada", retention=Retention(takes=1)).entries()) == 1
    assert [path.read_bytes() for path in mine] == 2 * [b"RIFF" + 100 * b"mine"]


def test_files_behind_links_are_written_there(data_dir: Path, tmp_path: Path, tone: bytes) -> None:
    far = tmp_path / "far"
    far.mkdir()
    (data_dir / "taught").mkdir(parents=True)
    links = [data_dir / "history.jsonl", data_dir / "taught" / "manifest.jsonl"]
    for link in links:
        (far / link.name).touch()
        link.symlink_to(far / link.name)
    store = Store(data_dir, speaker="ada")
    store.correct(add_take(store, tone).id, "one")
    assert all(link.is_symlink() for link in links)
    assert all(path.stat().st_size > 0 for path in far.iterdir())


def test_a_history_that_names_files_elsewhere_is_refused(data_dir: Path, tone: bytes) -> None:
    store = Store(data_dir, speaker="ada")
    add_take(store, tone)
    text = store.history_path.read_text().replace('"wav": "', '"wav": "../../')
    store.history_path.write_text(text)
    with pytest.raises(InputError, match="expected a file name"):
        Store(data_dir, speaker="ada")


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="cannot be written"):
        Store(tmp_path / "file", speaker="ada")


def test_a_second_app_on_the_same_folder_is_refused(data_dir: Path) -> None:
    store = Store(data_dir, speaker="ada", exclusive=True)
    with pytest.raises(SetupError, match="another moonshine uses this folder"):
        Store(data_dir, speaker="ada", exclusive=True)
    store.close()
    Store(data_dir, speaker="ada", exclusive=True).close()


def test_private_recordings_of_a_killed_app_are_removed_by_the_next(data_dir: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from lora_cli.store import Store\n"
        "store = Store(Path(sys.argv[1]), speaker='a', keep_history=False)\n"
        "print(store.takes_dir, flush=True); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(data_dir)], capture_output=True, text=True, check=False)
    left = Path(done.stdout.strip())
    assert left.is_dir()
    Store(data_dir, speaker="a", keep_history=False).close()
    assert not left.exists()


def test_a_blind_score_counts_wins_by_voice(data_dir: Path, tone: bytes) -> None:
    store = Store(data_dir, speaker="ada")
    for winner in ("tuned", "tuned", "base", "same", None):
        store.put(replace(add_take(store, tone), vote=winner))
    assert store.score() == {"tuned": 2, "base": 1, "same": 1}


def test_prompts_hold_every_digit_about_equally_often() -> None:
    prompts = digit_prompts(40, seed=3)
    words = " ".join(prompts.prompts).split()
    counts = [words.count(word) for word in set(words)]
    assert len(counts) == 10
    assert max(counts) - min(counts) <= 2
    assert all(3 <= len(prompt.split()) <= 7 for prompt in prompts.prompts)


def test_a_list_of_words_is_mixed_and_a_list_of_sentences_is_not(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("alpha\nbravo\ncharlie\n", encoding="utf-8")
    (tmp_path / "lines.txt").write_text("Cleared to land.\n\nHold short, please.\n", encoding="utf-8")
    assert len(read_prompts(tmp_path / "words.txt", 5, seed=0).prompts) == 5
    lines = read_prompts(tmp_path / "lines.txt", 5, seed=0)
    assert lines.prompts == ("Cleared to land.", "Hold short, please.")
    lines.advance()
    lines.advance()
    assert lines.current is None


def test_an_empty_prompt_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n...\n", encoding="utf-8")
    with pytest.raises(InputError, match="no words"):
        read_prompts(tmp_path / "empty.txt", 5, seed=0)


def test_a_difference_is_readable_without_colour() -> None:
    shown = plain_difference(word_difference("four fife six", "four five six seven"))
    assert shown == "four [-fife-] {+five+} six {+seven+}"


@settings(deadline=None)
@given(st.text(alphabet="ab ", max_size=20), st.text(alphabet="ab ", max_size=20))
def test_a_difference_holds_both_texts(heard: str, right: str) -> None:
    pieces = word_difference(heard, right)
    old = [word for piece in pieces if piece.change != "added" for word in piece.text.split()]
    new = [word for piece in pieces if piece.change != "removed" for word in piece.text.split()]
    assert (old, new) == (heard.split(), right.split())


def test_percentiles_are_measured_values() -> None:
    values = [float(number) for number in range(1, 21)]
    assert (percentile(values, 0.5), percentile(values, 0.95)) == (10.0, 19.0)
    assert percentile([], 0.5) is None


def test_latency_fits_half_of_eighty_columns() -> None:
    log = LatencyLog()
    assert log.line("base", 34) == ""
    log.voice("base").first_s += [0.21, 0.45]
    log.voice("base").final_s += [0.1, 0.3]
    log.voice("base").rtf += [0.05]
    assert log.line("base", 34) == "1st .21/.45 final .10/.30 RTF .05"


def test_adapters_are_named_after_their_runs() -> None:
    folders = [Path("/a/radio/lora_adapter"), Path("/b/radio/lora_adapter"), Path("/c/base")]
    assert adapter_names(folders) == ["radio", "radio-2", "base-2"]


def test_keys_can_be_rebound_and_faults_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("talk: [f8, f5]\ncopy: x\n", encoding="utf-8")
    keys = read_keys(path)
    assert (keys["talk"], keys["copy"], keys["teach"]) == (("f8", "f5"), ("x",), DEFAULT_KEYS["teach"])
    path.write_text("tlak: f8\ncopy: t\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_keys(path)
    assert len(caught.value.problems) == 2


def test_adapting_on_too_little_says_how_much_is_missing(data_dir: Path, tone: bytes) -> None:
    store = Store(data_dir, speaker="ada")
    for _ in range(4):
        store.correct(add_take(store, tone).id, "one")
    with pytest.raises(InputError, match="4 takes taught; 8 more"):
        check_enough(store)


def test_held_out_takes_are_never_in_the_training_manifest(data_dir: Path, tone: bytes) -> None:
    store = Store(data_dir, speaker="ada")
    for _ in range(12):
        store.correct(add_take(store, tone).id, "one")
    options = PersonalOptions(folder=store.root, output_dir=store.runs_dir / "voice-001")
    data = store.runs_dir / "data"
    config = plan_experiment(options, {}, choose_guards(options, data), data)
    config, said = divide(gather(options, data), config, options)
    assert said.startswith("recordings: 9 for training and development, 3 held out; as the recordings' own `part` says")
    parts = {row["id"]: row["part"] for row in store.taught_rows()}
    for path, part in ((config.dataset_path, "train"), (config.manifest_path, "heldout")):
        assert {parts[row.id] for row in read_manifest(path).utterances} == {part}


def test_an_adaptation_that_was_stopped_goes_on_unless_more_was_taught(data_dir: Path, tone: bytes) -> None:
    store = Store(data_dir, speaker="ada")
    entries = [add_take(store, tone) for _ in range(2)]
    store.correct(entries[0].id, "one")
    (store.runs_dir / "voice-001").mkdir(parents=True)
    assert next_run_dir(store.runs_dir).name == "voice-002"
    assert how_to_begin(store, store.runs_dir / "voice-002") == []
    unfinished = store.runs_dir / "voice-002.partial"
    unfinished.mkdir()
    (unfinished / "config.yaml").touch()
    assert next_run_dir(store.runs_dir).name == "voice-002"
    assert how_to_begin(store, store.runs_dir / "voice-002") == ["--resume"]
    store.correct(entries[1].id, "two")
    os.utime(unfinished / "config.yaml", (0, 0))
    assert how_to_begin(store, store.runs_dir / "voice-002") == ["--restart"]


def test_progress_lines_are_told_from_other_lines() -> None:
    line = json.dumps({"stage": "training", "done": 3, "total": 9, "detail": "training, loss 0.5"})
    assert parse_progress(line) == AdaptProgress("training", 3, 9, "training, loss 0.5")
    assert parse_progress("base model builtin:digits") is None
    assert parse_progress('{"other": 1}') is None


def test_a_full_disk_leaves_the_last_good_history(data_dir: Path, tone: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(data_dir, speaker="ada")
    entry = add_take(store, tone)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SetupError, match="No space"):
        store.correct(entry.id, "one")
    with pytest.raises(SetupError, match="No space"):
        store.delete(entry.id)
    assert store.wav_path(entry).exists()
    monkeypatch.undo()
    assert Store(data_dir, speaker="ada").entries() == [entry]


def test_a_damaged_row_of_what_was_taught_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path, speaker="anna")
    store.manifest_path.parent.mkdir(parents=True)
    store.manifest_path.write_text('{"id": "a"}\n{"id": ' + "[" * 10_000 + "\n")
    with pytest.raises(InputError, match=r"manifest\.jsonl:1: damaged \(expected an object with id, part and seconds"):
        store.taught_rows()
    store.manifest_path.write_text('{"id": "a", "part": "train", "seconds": 1}\n{"id": ' + "[" * 10_000 + "\n")
    with pytest.raises(InputError, match=r"manifest\.jsonl:2: damaged \(nested deeper"):
        store.taught_rows()
