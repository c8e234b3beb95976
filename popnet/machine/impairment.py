"""What is wrong with a wire, as values: the words of a machine file, of the command line and of the control
API are the same, those of Linux' netem, and this module says what they mean.

    delay, jitter, distribution, ordered    loss, duplicate, corrupt, reorder    rate, limit    match, seed
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from popnet.machine.units import (
    format_chance,
    format_duration,
    format_rate,
    format_size,
    parse_chance,
)

DISTRIBUTIONS: Final = ("uniform", "normal", "pareto")
DURATION_MAX_NS: Final = 3600 * 10**9
"""The longest delay or jitter: an hour."""

SEED_MAX: Final = (1 << 53) - 1
"""The largest seed: what every reader of JSON keeps whole."""

LOSS_ALLOWED: Final = "a chance such as 1%, or 'gemodel P R 1-H 1-K' such as 'gemodel 1% 20% 100% 0%'"

LIMIT_MIN_BYTES: Final = 1 << 15
LIMIT_DEFAULT_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Loss:
    """Loss in two states (Gilbert, Elliott): good, in which a wire begins, and bad.

    Attributes:
        good, bad: probability that a frame is lost in that state.
        to_bad, to_good: probability that a frame is the last one in the other state.
    """

    good: float = 0.0
    bad: float = 0.0
    to_bad: float = 0.0
    to_good: float = 0.0

    def text(self) -> str:
        if not self.to_bad:
            return format_chance(self.good)
        return "gemodel " + " ".join(map(format_chance, (self.to_bad, self.to_good, self.bad, self.good)))


@dataclass(frozen=True, slots=True)
class Impairment:
    """What one direction of a link or a NIC does to its frames; nothing, unless it is said.

    Attributes:
        delay_ns, jitter_ns: each frame is late by the delay, and by the jitter times a number of the
            distribution (of mean 0 and deviation 1; uniform: from -1 to 1).
        ordered: a frame with little jitter waits for the one before it, rather than to overtake it.
        duplicate, corrupt, reorder: probabilities.
        rate_bps: bits a second, counted from the Ethernet header on; None: no rate.
        limit_bytes: frames may wait for the rate that long together; None: what 100 ms take, 32 KiB at least.
        match: only frames that match suffer, in tcpdump's language; empty: all.
        seed: of all chance; None: one is drawn, and told.
    """

    delay_ns: int = 0
    jitter_ns: int = 0
    distribution: str = "uniform"
    ordered: bool = False
    loss: Loss = Loss()
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    rate_bps: int | None = None
    limit_bytes: int | None = None
    match: str = ""
    seed: int | None = None

    @property
    def limit_ns(self) -> int:
        """How long a frame may wait for the rate."""
        if self.rate_bps is None:
            return 0
        default = max(LIMIT_MIN_BYTES, int(self.rate_bps / 8 * LIMIT_DEFAULT_S))
        return (self.limit_bytes or default) * 8 * 10**9 // self.rate_bps

    def words(self) -> dict[str, Any]:
        """What differs from a perfect wire, by the words that `of` reads."""
        texts = {
            "delay": format_duration(self.delay_ns),
            "jitter": format_duration(self.jitter_ns),
            "distribution": self.distribution,
            "ordered": self.ordered,
            "loss": self.loss.text(),
            "duplicate": format_chance(self.duplicate),
            "corrupt": format_chance(self.corrupt),
            "reorder": format_chance(self.reorder),
            "rate": self.rate_bps and format_rate(self.rate_bps),
            "limit": self.limit_bytes and format_size(self.limit_bytes),
            "match": self.match,
            "seed": self.seed,
        }
        default = Impairment()
        said = (
            getattr(self, field.name) != getattr(default, field.name) for field in fields(self)
        )  # in the order of the words
        return {word: text for (word, text), differs in zip(texts.items(), said, strict=True) if differs}

    def text(self) -> str:
        """`delay 5ms loss 1% seed 7`, as it could stand on a command line."""
        words = self.words()
        if "match" in words:
            words["match"] = repr(self.match)
        return " ".join(word if value is True else f"{word} {value}" for word, value in words.items())


def parse_loss(text: str) -> Loss:
    """The loss that *text* means: `1%`, or as netem's `gemodel p [r [1-h [1-k]]]`."""
    name, *chances = text.split()[:6] or [""]
    if name != "gemodel" or not 1 <= len(chances) <= 4:
        if " " in text.strip() or name == "gemodel":
            raise ValueError(f"got {text!r}; allowed: {LOSS_ALLOWED}")
        return Loss(good=parse_chance(text))
    to_bad, *rest = map(parse_chance, chances)
    to_good, bad, good = (*rest, *(1 - to_bad, 1.0, 0.0)[len(rest) :])
    return Loss(good, bad, to_bad, to_good)


def contradictions(impairment: Impairment) -> list[tuple[str, str]]:
    """(word, what is wrong) for each word that makes no sense with the others."""
    needs = (
        ("jitter", impairment.jitter_ns > 0, "delay", impairment.delay_ns > 0),
        ("distribution", impairment.distribution != "uniform", "jitter", impairment.jitter_ns > 0),
        ("ordered", impairment.ordered, "jitter", impairment.jitter_ns > 0),
        ("reorder", impairment.reorder > 0, "delay", impairment.delay_ns > 0),
        ("limit", impairment.limit_bytes is not None, "rate", impairment.rate_bps is not None),
    )
    return [(word, f"needs {other!r} as well") for word, said, other, there in needs if said and not there]


Words = Mapping[str, Any]
"""An impairment as the file, the command line and the control API say it."""
