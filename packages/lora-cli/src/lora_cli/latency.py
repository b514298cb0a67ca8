"""Latency over a visit: first partial, final and real-time factor, each by voice, as p50 and p95."""

from dataclasses import dataclass, field

from lora.units import JsonObject, Seconds


def percentile(values: list[float], share: float) -> float | None:
    """Return the value below which `share` of the values lie (nearest rank), None without values."""
    if not values:
        return None
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * round(share * 100) // 100))
    return ordered[rank - 1]


@dataclass
class VoiceLatency:
    """What one voice took, take by take.

    Attributes:
        first_s: start of speech to first partial text.
        final_s: stop (key or end of speech) to final text.
        rtf: seconds of work for a second of audio, of final texts.
    """

    first_s: list[Seconds] = field(default_factory=list)
    final_s: list[Seconds] = field(default_factory=list)
    rtf: list[float] = field(default_factory=list)

    def summary(self) -> JsonObject:
        """Return counts, p50 and p95."""
        return {
            "takes": len(self.final_s),
            **{
                f"{name}_{label}": percentile(values, share)
                for name, values in (("first_s", self.first_s), ("final_s", self.final_s), ("rtf", self.rtf))
                for label, share in (("p50", 0.5), ("p95", 0.95))
            },
        }


class LatencyLog:
    """Latency of every voice of a visit."""

    def __init__(self) -> None:
        self._voices: dict[str, VoiceLatency] = {}

    def voice(self, name: str) -> VoiceLatency:
        """Return the log of one voice."""
        return self._voices.setdefault(name, VoiceLatency())

    def summary(self) -> dict[str, JsonObject]:
        """Return the summary of every voice that said something."""
        return {name: voice.summary() for name, voice in self._voices.items()}

    def line(self, name: str, width: int) -> str:
        """Return one voice's p50/p95 in at most `width` characters where that can be; empty before the first figure."""
        values = self.voice(name).summary()
        if values["first_s_p50"] is None and values["final_s_p50"] is None:
            return ""
        first, final, rtf = (
            pair(values[f"{kind}_p50"], values[f"{kind}_p95"]) for kind in ("first_s", "final_s", "rtf")
        )
        forms = (
            f"first text {first} s · final {final} s · real-time factor {rtf} (p50/p95)",
            f"first text {first} s · final {final} s · RTF {rtf}",
            f"1st {first} final {final} RTF {pair(values['rtf_p50'])}",
        )
        return next((form for form in forms if len(form) <= width), forms[-1])


def pair(*values: float | None) -> str:
    """Return figures as `.31/.45` or `1.2/3.4`, a dash for one that is unknown."""
    return "/".join("–" if value is None else _short(value) for value in values)


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else f"{value:.1f}"
