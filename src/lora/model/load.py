"""Load a base model: hub id, local folder, or `builtin:digits`."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSpeechSeq2Seq, AutoProcessor
from transformers.utils import logging as transformers_logging

from lora.errors import LoraError, ModelError, SetupError
from lora.model.attention import ATTENTION
from lora.model.device import bound_kept_shapes
from lora.model.families import FAMILIES, Family
from lora.model.model_folder import check_model_folder, check_processor_folder, code_in
from lora.model.weights_file import unusable_numbers
from lora.units import SAMPLE_RATE_HZ

BUILTIN_PREFIX = "builtin:"
DOCUMENTED_CHOICE = "UsefulSensors/moonshine-tiny"


@dataclass(frozen=True)
class Bundle:
    """A base model with everything that goes with it.

    Attributes:
        core: the Transformers model; adapter layers are injected into it in place.
        start_id: the token that the decoder starts from.
        end_id: the token that ends a text.
        max_tokens: most tokens that the decoder can emit.
        sha256: hash of the base weights, see `weights_sha256`.
    """

    model_id: str
    family: Family
    core: Any
    processor: Any
    tokenizer: Any
    start_id: int
    end_id: int
    max_tokens: int
    sha256: str

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.core.parameters()).device


def builtin_names() -> list[str]:
    """Return the names of the base models inside the package."""
    folder = files("lora") / "assets"
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.joinpath("config.json").is_file())


def locate_model(model_id: str) -> str:
    """Return the folder or hub id to load from.

    Raises:
        ModelError: an unknown builtin name, or a path without a model.
    """
    if model_id.startswith(BUILTIN_PREFIX):
        name = model_id.removeprefix(BUILTIN_PREFIX)
        if name not in builtin_names():
            raise ModelError(f"{model_id}: no such builtin model; there is {', '.join(builtin_names()) or 'none'}.")
        return str(files("lora") / "assets" / name)
    path = Path(model_id)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path}: no config.json; expected a folder written by save_pretrained.")
        return str(path)
    if path.is_absolute() or model_id.startswith(".") or model_id.count("/") != 1:
        raise ModelError(
            f"{model_id}: no such folder. Expected a local folder, a hub id such as {DOCUMENTED_CHOICE}, "
            "or builtin:digits."
        )
    return model_id


def load_bundle(model_id: str, device: torch.device, *, processor_dir: Path | None = None) -> Bundle:
    """Load a base model in fp32 with its processor, ready for evaluation.

    Raises:
        ModelError: not a Moonshine model, or its files bring code, are pickled or damaged, do not say what is needed,
            or lack weights.
        SetupError: the hub cannot be reached.
    """
    location = locate_model(model_id)
    bound_kept_shapes()
    # Bars for reading and writing local files, which take a moment; downloads keep theirs.
    transformers_logging.disable_progress_bar()
    if Path(location).is_dir():
        check_model_folder(Path(location))
    if processor_dir is not None:
        if not processor_dir.is_dir():
            raise ModelError(f"{processor_dir}: no such processor folder. Check --processor-dir.")
        check_processor_folder(processor_dir)
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
        family = FAMILIES.get(config.model_type)
        if family is None:
            raise ModelError(f"{model_id}: model type {config.model_type!r}; expected one of {', '.join(FAMILIES)}.")
        if "/" in str(config._attn_implementation) or code_in(config.to_dict()):
            raise ModelError(f"{model_id}: config.json names code, which is never run. Choose another model.")
        if Path(location).is_dir():
            _refuse_larger_than_file(config, Path(location), model_id)
        core, loaded = AutoModelForSpeechSeq2Seq.from_pretrained(
            location,
            dtype=torch.float32,
            attn_implementation=ATTENTION,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        processor = AutoProcessor.from_pretrained(
            str(processor_dir) if processor_dir else location, trust_remote_code=False
        )
    except LoraError:
        raise
    # Transformers checks few values before it uses them: over a damaged file it raises whatever comes of that.
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ModelError(f"{model_id}: names code, which is never run. Choose another model.") from error
        if location == model_id and not Path(location).is_dir():
            raise SetupError(
                f"{model_id}: cannot be loaded from the hub ({_first_line(error)}). Check the id and the network, "
                "or give a local folder or builtin:digits."
            ) from error
        raise ModelError(f"{model_id}: cannot be loaded ({_first_line(error)}). Check the folder's files.") from error
    _refuse_gaps(loaded, model_id)
    _refuse_bad_numbers(core, model_id)
    core.eval().requires_grad_(False)
    if device.type == "cpu":
        _leave_heads_unpadded_(core)
    start_id, end_id, max_tokens = _generation_limits(core, model_id)
    _check_processor(processor, core, model_id)
    digest = weights_sha256(core.state_dict())
    return Bundle(
        model_id=model_id,
        family=family,
        core=core.to(device),
        processor=processor,
        tokenizer=processor.tokenizer,
        start_id=start_id,
        end_id=end_id,
        max_tokens=max_tokens,
        sha256=digest,
    )


def _leave_heads_unpadded_(core: Any) -> None:
    """Leave out the padding of attention heads to a multiple of eight, which is for GPU kernels.

    It adds zeros to every query, key and value and changes no result. On a CPU it copies all keys and values of
    the audio in every decoding step: 43% more time for a model of moonshine-tiny's size (heads of 36).
    """
    for module in core.modules():
        if hasattr(module, "head_dim_padding"):
            module.head_dim_padding = 0


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Hash weights by content: names, shapes and fp32 bytes, in the order of the names.

    The same weights give the same hash whatever file format or number of files they came in.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _refuse_larger_than_file(config: Any, folder: Path, model_id: str) -> None:
    """Refuse a configuration whose weights are far more than the files hold, before they are allocated."""
    with torch.device("meta"):
        described = AutoModelForSpeechSeq2Seq.from_config(
            config, attn_implementation=ATTENTION, trust_remote_code=False
        )
    wanted = sum(weight.numel() for weight in described.parameters())
    # No number takes less than a byte.
    there = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if wanted > there:
        raise ModelError(
            f"{model_id}: config.json describes {wanted} weights, and {there} bytes of safetensors are there. "
            "Restore the model's files."
        )


def _refuse_gaps(loaded: Any, model_id: str) -> None:
    """Refuse weights that are not in the file: Transformers fills them with random numbers and goes on."""
    problems = [
        f"{kind}: {name}" for kind in ("missing_keys", "mismatched_keys", "error_msgs") for name in sorted(loaded[kind])
    ]
    # Of other names that are left over a checkpoint may have some; a layer is one that config.json left out.
    problems += [f"unexpected_keys: {name}" for name in sorted(loaded["unexpected_keys"]) if ".layers." in name]
    if problems:
        raise ModelError(f"{model_id}: {len(problems)} weight(s) cannot be loaded. Restore the model's files", problems)


def _refuse_bad_numbers(core: Any, model_id: str) -> None:
    problems = unusable_numbers(dict(core.named_parameters()))
    if problems:
        raise ModelError(f"{model_id}: {len(problems)} tensor(s) cannot be used. Restore the model's files", problems)


def _generation_limits(core: Any, model_id: str) -> tuple[int, int, int]:
    config, generation = core.config, core.generation_config
    start = next(
        (
            value
            for value in (generation.decoder_start_token_id, config.decoder_start_token_id, config.bos_token_id)
            if value is not None
        ),
        None,
    )
    end = config.eos_token_id
    if not isinstance(start, int) or not isinstance(end, int):
        raise ModelError(
            f"{model_id}: start token {start!r}, end token {end!r}; expected two integers in config.json or "
            "generation_config.json."
        )
    return start, end, config.max_position_embeddings - 1


def _check_processor(processor: Any, core: Any, model_id: str) -> None:
    if not hasattr(processor, "feature_extractor") or not hasattr(processor, "tokenizer"):
        raise ModelError(f"{model_id}: the processor has no feature extractor or no tokenizer; expected both.")
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    if extractor.sampling_rate != SAMPLE_RATE_HZ:
        raise ModelError(f"{model_id}: processor for {extractor.sampling_rate} Hz; expected {SAMPLE_RATE_HZ} Hz.")
    if extractor.do_normalize:
        raise ModelError(
            f"{model_id}: the processor normalises audio to unit variance; Moonshine takes raw samples "
            "(do_normalize false in preprocessor_config.json)."
        )
    if len(tokenizer) > core.config.vocab_size:
        raise ModelError(
            f"{model_id}: the tokenizer has {len(tokenizer)} tokens and the model {core.config.vocab_size}. "
            "They do not belong together."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
