from typing import Any

import pytest

from lora.data.sources.librispeech import read_librispeech, resolve_split
from lora.data.sources.selection import Selection
from lora.errors import SetupError, SourceError

pytestmark = pytest.mark.usefixtures("offline")


@pytest.mark.parametrize(
    ("config", "split", "meant"),
    [
        (None, "test", ("clean", "test")),
        (None, "train.360", ("clean", "train.360")),
        ("other", "test", ("other", "test")),
        ("other", "train.500", ("other", "train.500")),
        ("all", "test.clean", ("all", "test.clean")),
        ("all", "train.other.500", ("all", "train.other.500")),
        (None, "test.clean", ("clean", "test")),
        ("clean", "test.clean", ("clean", "test")),
        ("clean", "train.clean.100", ("clean", "train.100")),
        (None, "validation.other", ("other", "validation")),
    ],
)
def test_config_and_split_are_resolved(config: str | None, split: str, meant: tuple[str, str]) -> None:
    assert resolve_split(config, split) == meant


@pytest.mark.parametrize(
    ("config", "split", "right_ones"),
    [
        (None, "train.500", "train.100, train.360, validation, test"),
        ("clean", "dev", "train.100, train.360, validation, test"),
        ("clean", "test.other", "train.100, train.360, validation, test"),
        ("other", "train.100", "train.500, validation, test"),
        ("all", "test", "train.clean.100, train.clean.360, train.other.500, validation.clean"),
        (None, None, "train.100, train.360, validation, test"),
    ],
)
def test_a_wrong_split_lists_the_right_ones_without_asking_the_hub(
    config: str | None, split: str | None, right_ones: str
) -> None:
    with pytest.raises(SourceError) as error:
        read_librispeech(config=config, split=split)
    assert f"expected one of {right_ones}" in error.value.message
    assert "other: train.500, validation, test" in error.value.problems


def test_a_wrong_config_lists_the_right_ones() -> None:
    with pytest.raises(SourceError, match="no config 'dirty'; expected one of clean, other, all"):
        resolve_split("dirty", "test")


def test_ids_speakers_and_chapters_are_the_corpus_own_and_text_is_lowered(corpus: Any) -> None:
    corpus.write("other/test-00000-of-00001.parquet", [corpus.row(8)])
    folder = corpus.write("clean/test-00000-of-00001.parquet", [corpus.row(3)])
    (clip,) = read_librispeech(folder, split="test")
    assert (clip.id, clip.speaker_id, clip.extra) == ("1089-134686-0003", 1000, {"chapter_id": 134686})
    assert clip.text == "he hoped for stew number 3"
    (clip,) = read_librispeech(folder, split="test.other", selection=Selection(text_mode="keep"))
    assert clip.text == "HE HOPED FOR STEW NUMBER 8"


def test_the_folder_of_one_config_is_read_without_naming_it_but_no_other_config_is_taken_for_it(
    corpus: Any,
) -> None:
    folder = corpus.write("test-00000-of-00001.parquet", [corpus.row(3)])
    assert len(list(read_librispeech(folder, split="test"))) == 1
    for config, split in (("other", "test"), (None, "test.other")):
        with pytest.raises(SourceError, match="no config 'other'; expected one of default"):
            read_librispeech(folder, config=config, split=split)


def test_the_documented_form_asks_the_hub_and_says_so_when_it_cannot_be_reached() -> None:
    with pytest.raises(SetupError, match="openslr/librispeech_asr: the hub cannot be reached"):
        read_librispeech(config="other", split="test", selection=Selection(samples=200, seed=42))
