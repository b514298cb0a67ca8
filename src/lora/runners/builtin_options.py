"""Options of the builtin model's training, apart from the code that needs torch."""

from dataclasses import dataclass
from pathlib import Path

from lora.config import option


@dataclass(frozen=True)
class BuiltinConfig:
    """The recipe of `builtin:digits`."""

    fsdd: Path = option(Path("../shared/fsdd"), help="folder of the Free Spoken Digit Dataset")
    output: Path = option(Path("outputs/builtin-digits"), help="where the checkpoint goes")
    overwrite: bool = option(False, help="keep files in the output folder that this tool did not write, beside the new")
    voices: list[str] = option(
        default_factory=lambda: ["en-us", "en-us-nyc"], help="accents of the synthetic voices (train split)"
    )
    init_from: Path | None = option(None, help="checkpoint to go on from; from scratch unless given")
    speed_spread: int = option(4, help="speed variation of the recordings, in steps of 5%, 0 to 4")
    steps: int = option(2200, help="optimizer steps")
    batch_utterances: int = option(48, help="utterances in a step")
    fsdd_share: float = option(0.6, help="part of a step that is real speech")
    synthetic_clips: int = option(5000, help="synthetic utterances that are spoken before training")
    learning_rate: float = option(1.5e-3, help="peak learning rate; cosine decay to zero")
    warmup_steps: int = option(200, help="steps with rising learning rate")
    weight_decay: float = option(0.05, help="AdamW weight decay on matrices")
    ctc_weight: float = option(0.3, help="weight of the auxiliary CTC loss on the encoder")
    width: int = option(128, help="width of encoder and decoder")
    encoder_layers: int = option(4, help="layers of the encoder")
    decoder_layers: int = option(2, help="layers of the decoder")
    heads: int = option(4, help="attention heads")
    seed: int = option(42, help="seed of weights and data")
