"""The commands `check` and `manifest-diagnostics`, as a person runs them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.data.sources.fsdd import DIGIT_WORDS
from lora.scripts.umbrella import main

TEXTS = ["one two three", "four five six", "seven eight nine", "two zero two", "nine nine one", "six five four"]


def tone(number: int, seconds: float = 1.5) -> np.ndarray:
    """Return three tones with pauses between them, different for each number."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    return 0.3 * np.sin(2 * np.pi * (200 + 31 * number) * time) * (np.sin(2 * np.pi * 2 * time) > -0.5)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Six sound clips of two speakers."""
    rows = []
    for number, text in enumerate(TEXTS):
        soundfile.write(tmp_path / f"{number}.wav", tone(number), 16_000)
        rows.append({"id": f"clip-{number}", "audio": f"{number}.wav", "text": text, "speaker_id": number % 2})
    path = tmp_path / "six.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def change(manifest: Path, number: int, **keys: object) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[number] |= keys
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_sound_manifest_ends_with_zero(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(manifest)]) == 0
    assert capsys.readouterr().out.startswith("passed: 6 utterances")


def test_a_warning_alone_ends_with_zero(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(manifest, 2, text="seven eight [cough]")
    assert main(["check", "--manifests", str(manifest)]) == 0
    assert "warning bracket-tag" in capsys.readouterr().out


def test_an_error_ends_with_three_and_names_the_utterance(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(manifest.parent / "3.wav", np.zeros(16_000), 16_000)
    assert main(["check", str(manifest)]) == 3
    out = capsys.readouterr().out
    assert "error   silence" in out
    assert "clip-3" in out


def test_training_data_in_the_evaluation_set_ends_with_three(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = manifest.with_name("eval.jsonl")
    other.write_text(manifest.read_text().splitlines()[0] + "\n")
    assert main(["check", "--train", str(manifest), "--eval", str(other)]) == 3
    out = capsys.readouterr().out
    assert all(code in out for code in ("leak-id", "leak-audio", "leak-speaker", "leak-text"))


@pytest.mark.parametrize(
    "words",
    [[], ["no-such.jsonl"], ["m", "m"], ["m", "--remove", "clipping"], ["m", "--workers", "0"], ["m", "--top", "0"]],
)
def test_a_wrong_call_ends_with_two(words: list[str], manifest: Path) -> None:
    assert main(["check", *[str(manifest) if word == "m" else word for word in words]]) == 2


def test_fix_writes_new_manifests_and_ends_with_their_result(manifest: Path, tmp_path: Path) -> None:
    soundfile.write(manifest.parent / "3.wav", np.zeros(16_000), 16_000)
    before = manifest.read_bytes()
    assert main(["check", str(manifest), "--fix", str(tmp_path / "fixed")]) == 0
    assert manifest.read_bytes() == before
    (removed,) = [json.loads(line) for line in (tmp_path / "fixed" / "removed.jsonl").read_text().splitlines()]
    assert (removed["id"], removed["line"], removed["codes"]) == ("clip-3", 4, ["silence"])
    assert main(["check", str(tmp_path / "fixed" / "six.jsonl")]) == 0


def test_output_is_markdown_json_and_a_page_that_needs_nothing_else(manifest: Path, tmp_path: Path) -> None:
    change(manifest, 1, text="four <script>alert(1)</script> six", id="<img src=x>")
    assert main(["check", str(manifest), "--output", str(tmp_path / "out")]) == 0
    document = json.loads((tmp_path / "out" / "check.json").read_text())
    assert (document["schema_version"], document["passed"], document["errors"]) == (1, True, 0)
    assert document["findings"][0]["ids"] == ["<img src=x>"]
    assert "| warning | `bracket-tag` |" in (tmp_path / "out" / "check.md").read_text()
    page = (tmp_path / "out" / "check.html").read_text()
    assert page.count("<audio controls") == 1
    assert "data:audio/flac;base64,ZkxhQ" in page  # base64 of "fLaC"
    assert "&lt;script&gt;" in page
    assert not any(bad in page for bad in ("<script", "<img", "http:", "https:"))


def test_a_check_without_a_model_loads_no_torch(manifest: Path, tmp_path: Path) -> None:
    words = ["check", str(manifest), "--output", str(tmp_path / "out"), "--fix", str(tmp_path / "fixed")]
    report = (
        f"import sys\nfrom lora.scripts.umbrella import main\nassert main({words!r}) == 0\n"
        f"assert main(['manifest-diagnostics', '--manifests', {str(manifest)!r}]) == 0\n"
        "heavy = ('torch', 'transformers', 'datasets', 'matplotlib')\n"
        "print('loaded:', *[name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_diagnostics_prints_and_writes_both_tables(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["manifest-diagnostics", "--manifests", str(manifest), "--max-seconds", "20", "--thresholds", "1", "2"]
    assert main([*words, "--min-samples", "4", "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "| Manifest | Samples | Mean (s) | <=1s | <=2s |" in out
    assert f"| {manifest} | 6 | 1.50 | 0 (0.0%) | 6 (100.0%) |" in out
    assert f"| {manifest} | 6 | 5 | 1 | random | utterance id |" in out
    assert "sufficient: 5 training utterances" in out
    assert (tmp_path / "out" / "manifest_diagnostics.md").read_text() == out
    document = json.loads((tmp_path / "out" / "manifest_diagnostics.json").read_text())
    assert document["durations"][0]["within"][1] == {"seconds": 2.0, "samples": 6, "share": 1.0}
    assert document["sufficiency"][0]["enough"] is True


def test_with_a_model_utterances_are_ranked_and_can_be_heard(manifest: Path, tmp_path: Path) -> None:
    from lora.model.scratch import build_model, build_processor, save_checkpoint

    processor = build_processor(DIGIT_WORDS)
    model = build_model(
        "moonshine", vocab_size=len(processor.tokenizer), width=32, encoder_layers=1, decoder_layers=1, heads=2, seed=0
    )
    save_checkpoint(model, processor, tmp_path / "model")
    change(manifest, 4, text="extraordinarily unpronounceable characters")  # spelled letter by letter: too many tokens
    words = ["check", str(manifest), "--model-id", str(tmp_path / "model"), "--device", "cpu"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    document = json.loads((tmp_path / "out" / "check.json").read_text())
    assert {row["id"] for row in document["suspects"]} == {f"clip-{number}" for number in range(6)}
    (limit,) = [one for one in document["findings"] if one["code"] == "decode-limit"]
    assert limit["ids"] == ["clip-4"]
    assert document["baseline_wer"][str(manifest)] > 0.5
    page = (tmp_path / "out" / "check.html").read_text()
    assert page.count("<audio controls") == 6
    assert main(["manifest-diagnostics", "--manifests", str(manifest), "--model-id", str(tmp_path / "model")]) == 0
