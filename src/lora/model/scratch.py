"""Make a checkpoint of the Moonshine architecture from nothing: for the builtin model and for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers
from transformers import (
    GenerationConfig,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    MoonshineStreamingConfig,
    MoonshineStreamingForConditionalGeneration,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)
from transformers.models.moonshine_streaming.configuration_moonshine_streaming import MoonshineStreamingEncoderConfig

from lora.model.saving import save_pretrained
from lora.units import SAMPLE_RATE_HZ

_CHARACTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'.,?!-"


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Build a SentencePiece-style BPE tokenizer with byte fallback in which each of `words` is one token.

    Any other text is spelled in characters and bytes, so nothing is unknown. Same kind as the real
    checkpoints' tokenizers: `<unk>` 0, `<s>` 1, `</s>` 2.
    """
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *_CHARACTERS]
    merges: list[tuple[str, str]] = []
    for word in words:
        piece = "▁"
        for character in word:
            if piece + character not in vocabulary:
                merges.append((piece, character))
                vocabulary.append(piece + character)
            piece += character
    core = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(vocabulary)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(Regex(" "), "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def build_processor(words: Sequence[str]) -> Wav2Vec2Processor:
    """Build a processor like the real checkpoints': raw samples at 16 kHz and a BPE tokenizer."""
    extractor = Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=SAMPLE_RATE_HZ,
        padding_value=0.0,
        do_normalize=False,
        return_attention_mask=True,
    )
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=build_tokenizer(words))


def build_model(
    family: Literal["moonshine", "moonshine_streaming"],
    *,
    vocab_size: int,
    width: int,
    encoder_layers: int,
    decoder_layers: int,
    heads: int,
    seed: int,
) -> Any:
    """Build a randomly initialised model of either family, in fp32."""
    torch.manual_seed(seed)
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "decoder_start_token_id": 1}
    if family == "moonshine":
        model: Any = MoonshineForConditionalGeneration(
            MoonshineConfig(
                vocab_size=vocab_size,
                hidden_size=width,
                intermediate_size=4 * width,
                encoder_num_hidden_layers=encoder_layers,
                decoder_num_hidden_layers=decoder_layers,
                encoder_num_attention_heads=heads,
                decoder_num_attention_heads=heads,
                max_position_embeddings=194,
                **tokens,
            )
        )
    else:
        windows = tuple((16, 4) if layer in (0, 1, encoder_layers - 1) else (16, 0) for layer in range(encoder_layers))
        model = MoonshineStreamingForConditionalGeneration(
            MoonshineStreamingConfig(
                encoder_config=MoonshineStreamingEncoderConfig(
                    hidden_size=width,
                    intermediate_size=4 * width,
                    num_hidden_layers=encoder_layers,
                    num_attention_heads=heads,
                    num_key_value_heads=heads,
                    sliding_windows=windows,
                ),
                vocab_size=vocab_size,
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=decoder_layers,
                num_attention_heads=heads,
                num_key_value_heads=heads,
                max_position_embeddings=1024,
                **tokens,
            )
        )
    model.generation_config = GenerationConfig(**tokens)
    return model.eval()


def save_checkpoint(model: Any, processor: Any, folder: Path) -> None:
    """Write model and processor in the layout of the hub's checkpoints."""
    save_pretrained(model, folder)
    save_pretrained(processor, folder)
