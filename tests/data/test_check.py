"""The doctor finds every fault by code and id, raises no false alarm, and its repair passes."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from lora.data.check.doctor import Check, CheckInput, check_manifests
from lora.data.check.fix import write_fixed
from lora.data.check.rows import CheckSettings
from lora.data.findings import RULES
from lora.data.manifest import read_manifest
from lora.errors import ConfigError, ManifestError

SHARED = Path(__file__).resolve().parents[3] / "shared"
MODEL_CODES = {"decode-limit", "unknown-token", "suspect-label", "style-casing", "style-punctuation"}


def _load_torture() -> ModuleType:
    spec = importlib.util.spec_from_file_location("torture", Path(__file__).with_name("torture.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["torture"] = module
    spec.loader.exec_module(module)
    return module


torture = _load_torture()


def check(*paths: Path, train: tuple[Path, ...] = (), evaluation: tuple[Path, ...] = (), workers: int = 2) -> Check:
    inputs = [CheckInput(path, "any") for path in paths] + [CheckInput(path, "train") for path in train]
    inputs += [CheckInput(path, "eval") for path in evaluation]
    return check_manifests(inputs, CheckSettings(workers=workers), lambda count: None)


def found(result: Check) -> dict[str, set[str]]:
    codes: dict[str, set[str]] = {}
    for finding in result.findings:
        codes.setdefault(finding.code, set()).update(finding.ids)
    return codes


@pytest.fixture(scope="module")
def tortured(tmp_path_factory: pytest.TempPathFactory) -> object:
    return torture.build_torture(tmp_path_factory.mktemp("torture"))


@pytest.fixture(scope="module")
def result(tortured: object) -> Check:
    return check(train=(tortured.train,), evaluation=(tortured.evaluation,))  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", sorted(set(RULES) - MODEL_CODES - {"all-caps"}))
def test_the_fault_is_found_at_the_right_utterances_and_at_no_other(code: str, tortured: object, result: Check) -> None:
    assert found(result).get(code) == tortured.expected[code]  # type: ignore[attr-defined]


def test_the_evaluation_manifest_of_the_torture_is_clean(tortured: object, result: Check) -> None:
    assert [one.code for one in result.findings if one.manifest == str(tortured.evaluation)] == []  # type: ignore[attr-defined]


def test_each_finding_has_a_severity_a_message_and_advice(result: Check) -> None:
    for finding in result.findings:
        assert finding.severity == RULES[finding.code].severity
        assert finding.message.startswith(RULES[finding.code].title)
        assert len(finding.details) == max(len(finding.ids), 1)
        assert finding.advice


def test_errors_come_before_warnings(result: Check) -> None:
    severities = [one.severity for one in result.findings]
    assert severities == sorted(severities)
    assert {"error", "warning"} == set(severities)


def test_the_number_of_workers_changes_nothing(tortured: object, result: Check) -> None:
    alone = check(train=(tortured.train,), evaluation=(tortured.evaluation,), workers=1)  # type: ignore[attr-defined]
    assert [one.to_json() for one in alone.findings] == [one.to_json() for one in result.findings]


def test_the_repaired_manifests_pass_and_stand_on_their_own(tortured: object, result: Check, tmp_path: Path) -> None:
    before = tortured.train.read_bytes()  # type: ignore[attr-defined]
    fixed = write_fixed(result, tmp_path / "fixed", allow_outside=False)
    train, evaluation = (fixed.manifests[str(one.path)] for one in result.inputs)
    again = check(train=(train,), evaluation=(evaluation,))
    assert again.passed
    kept = {row.id for row in read_manifest(train).utterances}
    assert {"original", "flac-named-wav", "clipped", "same-speaker", "at-44-khz"} <= kept
    assert not kept & {"copy", "one-text", "other-text", "same-recording", "nan"}
    assert len(read_manifest(evaluation)) == 12
    removed = [json.loads(line) for line in (tmp_path / "fixed" / "removed.jsonl").read_text().splitlines()]
    assert len(removed) == fixed.removed == len(result.rows[str(tortured.train)]) - len(kept)  # type: ignore[attr-defined]
    assert next(row["codes"] for row in removed if row["id"] == "copy") == ["duplicate-audio"]
    assert tortured.train.read_bytes() == before  # type: ignore[attr-defined]


def test_warnings_go_only_when_asked_for(result: Check, tmp_path: Path) -> None:
    fixed = write_fixed(result, tmp_path / "fixed", also=["clipping", "leak-text"], allow_outside=False)
    kept = {row.id for row in read_manifest(next(iter(fixed.manifests.values()))).utterances}
    assert not kept & {"clipped", "clipped-then-lowered", "same-text"}
    assert "offset" in kept


def test_a_repair_goes_into_a_new_folder_only(result: Check, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="not an earlier repair"):
        write_fixed(result, tmp_path, allow_outside=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_same_repair_is_found_and_another_is_not_replaced(result: Check, tmp_path: Path) -> None:
    output = tmp_path / "fixed"

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}

    fixed = write_fixed(result, output, allow_outside=False)
    before = files()
    assert write_fixed(result, output, allow_outside=False) == fixed
    with pytest.raises(ConfigError, match="another repair"):
        write_fixed(result, output, also=["clipping"], allow_outside=False)
    (output / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        write_fixed(result, output, allow_outside=False)
    assert files() == before | {output / "notes.txt": b"mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["fixed"]


def test_a_repair_does_not_go_where_its_manifests_are(result: Check, tortured: object) -> None:
    folder = tortured.train.parent  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="not an earlier repair"):
        write_fixed(result, folder, allow_outside=False)


def test_a_repair_of_a_repair_does_not_replace_it(result: Check, tmp_path: Path) -> None:
    output = tmp_path / "fixed"
    first = write_fixed(result, output, allow_outside=False)
    with pytest.raises(ConfigError, match="is read, and lies in it"):
        write_fixed(check(*first.manifests.values()), output, allow_outside=False)


def test_a_repair_by_an_unknown_or_unremovable_code_is_refused(result: Check, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="single-clip-speaker"):
        write_fixed(result, tmp_path / "out", also=["single-clip-speaker"], allow_outside=False)
    assert not (tmp_path / "out").exists()


def test_a_repair_that_would_leave_nothing_is_refused_and_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(ManifestError, match="nothing would be left"):
        write_fixed(check(tmp_path / "bad.jsonl"), tmp_path / "out", allow_outside=False)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_two_clean_manifests_raise_no_alarm(tmp_path: Path) -> None:
    one = torture.write_clean(tmp_path, "one", torture.speak(24, "train", torture.TRAIN_VOICES, 5))
    two = torture.write_clean(tmp_path / "two", "two", torture.speak(12, "test", torture.TEST_VOICES, 6))
    assert check(train=(one,), evaluation=(two,)).findings == []


def test_inline_waveforms_are_checked_like_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wave = [round(float(value), 4) for value in 0.1 * rng.standard_normal(1600)]
    rows = [
        {"id": "a", "audio": wave, "text": "one"},
        {"id": "b", "audio": wave, "text": "One."},
        {"id": "c", "audio": [0.0] * 1600, "text": "two"},
    ]
    (tmp_path / "inline.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    codes = found(check(tmp_path / "inline.jsonl"))
    assert codes["duplicate-audio"] == {"b"}
    assert codes["silence"] == {"c"}


def test_odd_files_become_findings_and_never_exceptions(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "no-samples.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "slow.wav", np.full(600, 0.1), 100)
    soundfile.write(tmp_path / "huge.wav", np.full(1600, 1e30, dtype=np.float32), 16_000, subtype="FLOAT")
    names = ("no-samples", "slow", "huge")
    rows = [json.dumps({"id": name, "audio": f"{name}.wav", "text": "one"}) for name in names]
    (tmp_path / "odd.jsonl").write_text("\n".join(rows) + "\n")
    assert found(check(tmp_path / "odd.jsonl")) == {
        "too-short": {"no-samples"},
        "unreadable": {"slow"},
        "non-finite": {"huge"},
    }


def test_a_copy_in_another_manifest_is_a_duplicate_too(tmp_path: Path) -> None:
    clips = torture.speak(6, "train", torture.TRAIN_VOICES[:2], 7)
    one = torture.write_clean(tmp_path / "a", "one", clips)
    two = torture.write_clean(tmp_path / "b", "two", clips[:2])
    (finding,) = [one for one in check(one, two).findings if one.code == "duplicate-audio"]
    assert finding.manifest == str(two)
    assert set(finding.ids) == {clip.id for clip in clips[:2]}
    assert str(one) in finding.details[0]


def test_a_manifest_all_in_capitals_is_named_as_a_whole(tmp_path: Path) -> None:
    clips = torture.speak(4, "train", torture.TRAIN_VOICES[:2], 8)
    path = torture.write_clean(tmp_path, "caps", clips)
    path.write_text(
        "".join(
            json.dumps(json.loads(line) | {"text": json.loads(line)["text"].upper()}) + "\n"
            for line in path.read_text().splitlines()
        )
    )
    (finding,) = check(path).findings
    assert (finding.code, finding.ids) == ("all-caps", ())


def test_made_up_ids_of_manifests_with_one_name_are_no_leak(tmp_path: Path) -> None:
    clips = torture.speak(4, "train", torture.TRAIN_VOICES[:1], 9)
    paths = []
    for name, part in (("a", clips[:2]), ("b", clips[2:])):
        path = torture.write_clean(tmp_path / name, "data", part)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({"audio": row["audio"], "text": row["text"]}) + "\n" for row in rows))
        paths.append(path)
    assert check(train=(paths[0],), evaluation=(paths[1],)).findings == []


def test_a_missing_manifest_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such manifest"):
        check(tmp_path / "none.jsonl")


@pytest.mark.skipif(not (SHARED / "librivox").is_dir(), reason="no LibriVox clips beside the project")
def test_real_sentences_raise_no_alarm() -> None:
    assert check(SHARED / "librivox" / "transcripts.jsonl").findings == []


@pytest.mark.skipif(not (SHARED / "fsdd").is_dir(), reason="no FSDD beside the project")
def test_real_digits_raise_no_alarm(tmp_path: Path) -> None:
    words = "zero one two three four five six seven eight nine".split()
    with (tmp_path / "digits.jsonl").open("w") as file:
        for source in sorted((SHARED / "fsdd" / "recordings").glob("*_1?.wav")):
            digit, speaker, _ = source.stem.split("_")
            (tmp_path / source.name).write_bytes(source.read_bytes())
            row = {"id": source.stem, "audio": source.name, "text": words[int(digit)], "speaker_id": speaker}
            file.write(json.dumps(row) + "\n")
    result = check(tmp_path / "digits.jsonl")
    assert len(result.all_rows()) == 400
    assert result.findings == []


def test_the_page_on_data_checks_explains_every_code_and_no_other() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "data_checks.md").read_text()
    listed = {line.split("`")[1]: line.split("|")[2].strip() for line in page.splitlines() if line.startswith("| `")}
    assert listed == {code: rule.severity for code, rule in RULES.items()}
