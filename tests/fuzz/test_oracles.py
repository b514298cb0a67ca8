"""The fuzz target's oracles on Hypothesis' inputs: rows that are almost right, and files with flipped bytes."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora.data import manifest


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    place = Path(__file__).with_name("fuzz_manifest.py")
    spec = importlib.util.spec_from_file_location("fuzz_manifest", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def root(fuzz: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fuzz.make_folder(tmp_path_factory.mktemp("fuzz"))


paths = st.one_of(
    st.sampled_from(["a.wav", "./a.wav", "sub/b.wav", "sub//b.wav", "sub/./b.wav", "a.wav/", "link.wav", "loop.wav"]),
    st.sampled_from(
        ["../out.wav", "sub/../../out.wav", "/etc/hostname", "/", "", ".", "..", "sub", "nul\0.wav", "a" * 5000]
    ),
    st.lists(st.sampled_from(["..", ".", "", "sub", "a.wav", "b.wav", "loop.wav"]), min_size=1, max_size=5).map(
        "/".join
    ),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)
samples = st.lists(st.one_of(st.floats(-1, 1), st.integers(-1, 1), values), max_size=4)
rows = st.fixed_dictionaries(
    {
        "audio": st.one_of(paths, samples, values),
        "text": st.one_of(st.just("seven three"), st.text(max_size=8), values),
    },
    optional={
        "id": st.one_of(st.text(max_size=4), values),
        "speaker_id": values,
        "sampling_rate": st.one_of(st.integers(), values),
        "more": values,
    },
)
ONCE = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@ONCE
@given(listed=st.lists(rows, min_size=1, max_size=3), ascii_only=st.booleans(), cut=st.integers(0, 3))
def test_rows_that_are_almost_right_are_read_truly_or_refused(
    fuzz: ModuleType, root: Path, listed: list[dict[str, object]], ascii_only: bool, cut: int
) -> None:
    text = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in listed)
    data = text.encode("utf-8", "surrogatepass")
    fuzz.check_manifest(data[: len(data) - cut] if cut else data, root)


@ONCE
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6), data=st.data())
def test_audio_files_with_flipped_bytes_are_decoded_or_refused(
    fuzz: ModuleType, flips: list[tuple[int, int]], data: st.DataObject
) -> None:
    file = bytearray(data.draw(st.sampled_from(fuzz.seeds_audio())))
    for place, value in flips:
        file[place % min(len(file), 120)] = value  # the headers, where the damage is done
    fuzz.check_audio(bytes(file))


def test_the_seeds_of_the_fuzz_target_are_accepted_unless_they_leave_the_folder(fuzz: ModuleType, root: Path) -> None:
    assert [fuzz.check_manifest(seed, root) for seed in fuzz.SEEDS_MANIFEST] == [True, True, False, False]
    assert all(fuzz.check_audio(seed) for seed in fuzz.seeds_audio())


def test_the_oracle_sees_an_error_that_is_not_the_projects_own(
    fuzz: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(raw: bytes, place: str, problems: list[str]) -> None:
        raise KeyError(place)

    monkeypatch.setattr(manifest, "parse_row", crash)
    with pytest.raises(KeyError):
        fuzz.check_manifest(fuzz.SEEDS_MANIFEST[0], root)
