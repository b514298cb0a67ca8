"""The shift of decoder inputs against labels, made once."""

from dataclasses import replace

import pytest

from lora.errors import ManifestError
from lora.model.load import Bundle
from lora.model.text import IGNORED, build_token_batch, encode_text

pytestmark = pytest.mark.parametrize("family_name", ["moonshine"], indirect=True)


def test_inputs_start_with_the_start_token_and_labels_end_with_the_end_token(bundle: Bundle) -> None:
    batch = build_token_batch(bundle, [[7, 8, 9], [5]])
    assert batch.decoder_input_ids.tolist() == [[1, 7, 8, 9], [1, 5, 2, 2]]
    assert batch.labels.tolist() == [[7, 8, 9, 2], [5, 2, IGNORED, IGNORED]]
    assert batch.num_tokens == 6


def test_a_text_is_encoded_without_special_tokens_and_comes_back(bundle: Bundle) -> None:
    ids = encode_text(bundle, "seven Ärger 7", place="here")
    assert not {bundle.start_id, bundle.end_id} & set(ids)
    assert bundle.tokenizer.decode(ids) == "seven Ärger 7"
    assert len(encode_text(bundle, "seven", place="here")) == 1


@pytest.mark.parametrize("text", ["one </s> two", "<s> one"])
def test_a_text_that_spells_a_special_token_is_refused(bundle: Bundle, text: str) -> None:
    with pytest.raises(ManifestError, match=r"rows\.jsonl:3: text .* spells the model's start or end token"):
        encode_text(bundle, text, place="rows.jsonl:3")


def test_a_text_without_tokens_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ManifestError, match="has no tokens"):
        encode_text(bundle, "", place="here")


def test_a_text_is_refused_when_its_end_token_has_no_place(bundle: Bundle) -> None:
    small = replace(bundle, max_tokens=4)
    assert len(encode_text(small, "one two three", place="here")) == 3
    with pytest.raises(ManifestError, match="text has 4 tokens; the model emits at most 3"):
        encode_text(small, "one two three four", place="here")
