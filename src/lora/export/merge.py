"""Merge an adapter into its base model and prove that nothing changed on the way."""

from pathlib import Path

import torch
from torch import Tensor

from lora.errors import CheckFailed
from lora.model.adapters import load_adapter
from lora.model.load import Bundle, load_bundle
from lora.model.scratch import save_checkpoint
from lora.model.text import build_token_batch
from lora.outputs import check_folder, inputs_of, output_folder

KIND = "a merged model"
TOLERANCE = 1e-3
PROBE_SECONDS = (1, 3)


def merge_adapter(model_id: str, adapter_dir: Path, output: Path, *, overwrite: bool = False) -> float:
    """Write a checkpoint whose weights contain the adapter; no PEFT is needed to load it.

    The folder is loaded back and its logits on a fixed probe are compared with adapter-on-base.

    Returns:
        The largest difference of a logit.

    Raises:
        CheckFailed: it exceeds `TOLERANCE`; nothing is written then.
        ConfigError, SetupError: as `output_folder`, or adapter or base lie in `output`.
    """
    check_folder(output, inputs_of(model_id, adapter_dir), kind=KIND, overwrite=overwrite)
    bundle = load_bundle(model_id, torch.device("cpu"))
    model, _ = load_adapter(bundle, adapter_dir)
    wanted = _probe_logits(bundle)
    merged = model.merge_and_unload()
    with output_folder(output, kind=KIND, overwrite=overwrite) as stage:
        save_checkpoint(merged, bundle.processor, stage)
        difference = float((_probe_logits(load_bundle(str(stage), torch.device("cpu"))) - wanted).abs().max())
        if not difference <= TOLERANCE:
            raise CheckFailed(
                f"{output}: merged logits differ from adapter-on-base by {difference:.2e}; expected at most "
                f"{TOLERANCE}. Report this with the adapter's configuration."
            )
    return difference


@torch.no_grad()
def _probe_logits(bundle: Bundle) -> Tensor:
    """Return logits on seeded noise and a fixed token sequence, float32 (positions, vocabulary)."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([16_000 * seconds for seconds in PROBE_SECONDS])
    audio = 0.05 * torch.randn((len(lengths), int(lengths.max())), generator=generator)
    audio *= torch.arange(audio.shape[1]) < lengths.unsqueeze(1)
    encoded = bundle.family.encode(bundle.core, audio, lengths)
    tokens = build_token_batch(bundle, [[3, 4, 5, 6, 7]] * len(lengths))
    hidden = bundle.core.model.decoder(
        input_ids=tokens.decoder_input_ids,
        encoder_hidden_states=bundle.family.decoder_memory(encoded),
        encoder_attention_mask=encoded.mask,
        use_cache=False,
    ).last_hidden_state
    return bundle.core.proj_out(hidden).flatten(0, 1)
