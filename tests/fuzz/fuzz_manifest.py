#!/usr/bin/env python3
"""Fuzz target: on any bytes, the manifest reader and the audio decoder raise the project's own error or tell the truth.

    python tests/fuzz/fuzz_manifest.py manifest -max_total_time=60
    python tests/fuzz/fuzz_manifest.py audio -max_total_time=60

The oracles are plain functions, which `test_oracles.py` also runs on Hypothesis' inputs. See docs/fuzzing.md.
"""

import io
import json
import sys
import tempfile
from pathlib import Path
from types import FunctionType

import numpy as np
import soundfile

from lora.config import PreprocessConfig
from lora.data import audio, audio_paths, manifest, manifest_rows
from lora.data.audio import decode_audio, prepare_wave
from lora.data.manifest import Utterance, iter_manifest, read_manifest, write_manifest
from lora.errors import AudioError, ManifestError

SEEDS_MANIFEST = (
    b'{"id": "u1", "audio": "a.wav", "text": "seven three", "speaker_id": 4, "accent": "x"}\n',
    b'{"audio": [0.0, 0.5, -0.25, 1e-3], "text": "four", "sampling_rate": 8000}\n{"audio": "sub/b.wav", "text": "x"}\n',
    b'{"audio": "../out.wav", "text": "\\u00e9"}\n',
    b'{"audio": "link.wav", "text": "one", "extra": {"a": [1, null, 1e3, true]}}',
)


def make_folder(folder: Path) -> Path:
    """Put a file, a folder, a link out and a loop of links where a manifest may point; return the root."""
    root = folder / "root"
    (root / "sub").mkdir(parents=True)
    wave = (0.2 * np.sin(0.17 * np.arange(400))).astype(np.float32)
    for path in (root / "a.wav", root / "sub" / "b.wav", folder / "out.wav"):
        soundfile.write(path, wave, 16_000, subtype="PCM_16")
    (root / "link.wav").symlink_to(folder / "out.wav")
    (root / "loop.wav").symlink_to("loop.wav")
    return root


def check_manifest(data: bytes, root: Path) -> bool:
    """Read `data` as a manifest in `root`; return whether it was accepted.

    Raises:
        AssertionError: an accepted manifest breaks a promise.
        Exception: anything but ManifestError from the reader is a defect and passes through.
    """
    path = root / "fuzz.jsonl"
    path.write_bytes(data)
    try:
        utterances = read_manifest(path).utterances
    except ManifestError:
        return False
    assert utterances
    assert len({utterance.id for utterance in utterances}) == len(utterances)
    assert [as_row(one) for one in iter_manifest(path)] == [as_row(one) for one in utterances]
    for utterance in utterances:
        assert any(char.isalnum() for char in utterance.text)
        if isinstance(utterance.audio, Path):
            assert utterance.audio.is_file()
            assert utterance.audio.resolve().is_relative_to(root.resolve())
        else:
            assert utterance.audio.dtype == np.float32
            assert np.isfinite(utterance.audio).all()
    again = root / "again.jsonl"
    write_manifest(again, utterances)
    reread = read_manifest(again).utterances
    assert [as_row(one) for one in reread] == [as_row(one) for one in utterances]
    first = again.read_bytes()
    write_manifest(again, reread)
    assert again.read_bytes() == first
    return True


def as_row(utterance: Utterance) -> str:
    """Return everything that a manifest says of an utterance, as text that compares exactly."""
    inline = not isinstance(utterance.audio, Path)
    audio = utterance.audio.tolist() if isinstance(utterance.audio, np.ndarray) else str(utterance.audio)
    rate = (utterance.sampling_rate or 16_000) if inline else None
    speaker = utterance.speaker_id
    return json.dumps([utterance.id, audio, utterance.text, speaker, type(speaker).__name__, rate, utterance.extra])


def check_audio(data: bytes) -> bool:
    """Decode `data` and prepare it; return whether it was accepted.

    Raises:
        AssertionError: an accepted wave breaks a promise.
        Exception: anything but AudioError is a defect and passes through.
    """
    try:
        samples, rate = decode_audio(data, name="fuzz")
        wave = prepare_wave(samples, rate, PreprocessConfig(), name="fuzz")
    except AudioError:
        return False
    assert (wave.ndim, wave.dtype) == (1, np.float32)
    assert np.isfinite(wave).all()
    assert float(np.abs(wave).max()) <= 1.0
    return True


def seeds_audio() -> list[bytes]:
    """Return one short file of each format."""
    wave = (0.2 * np.sin(0.17 * np.arange(2000))).astype(np.float32)
    files = []
    for name, subtype in (
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("AIFF", "PCM_16"),
    ):
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, 16_000, format=name, subtype=subtype)
        files.append(buffer.getvalue())
    return files


def own_functions() -> list[FunctionType]:
    """Return the functions whose branches guide the fuzzer: ours only, because to instrument NumPy takes minutes."""
    found = []
    for module in (audio, audio_paths, manifest, manifest_rows):
        classes = [value for value in vars(module).values() if isinstance(value, type)]
        for owner in (module, *classes):
            found += [
                value
                for value in vars(owner).values()
                if isinstance(value, FunctionType) and value.__module__ == module.__name__
            ]
    return found


def main() -> None:
    """Run the fuzzer; it ends by its own options, or with the input that broke an oracle."""
    import atheris

    target, *options = sys.argv[1:] or [""]
    if target not in ("manifest", "audio"):
        sys.exit("usage: fuzz_manifest.py manifest|audio [libFuzzer options]")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = make_folder(folder)
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(SEEDS_MANIFEST if target == "manifest" else seeds_audio()):
            (corpus / str(number)).write_bytes(seed)

        def run(data: bytes) -> None:
            check_manifest(data, root) if target == "manifest" else check_audio(data)

        for function in own_functions():
            atheris.instrument_func(function)
        inputs = [] if any(Path(word).is_file() for word in options) else [str(corpus)]
        atheris.Setup([sys.argv[0], *options, *inputs], run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
