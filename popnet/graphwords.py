"""How a graph says what went over a wire, and what is wrong with it. Pure.

What is wrong with one direction is a *fault*: {"state": "up" or "down", "impairment": words}, the words of
`popnet link`. It is told in short: seed, distribution and limits are left to `popnet link`.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

PERFECT: Final[Mapping[str, Any]] = {"state": "up", "impairment": {}}

_TOLD: Final = ("delay", "jitter", "loss", "duplicate", "corrupt", "reorder", "rate")
_MATCH_MAX: Final = 24
_UNIT: Final = re.compile(r"(?<=\d)(?=[a-zµ%])")


def count_text(count: float) -> str:
    """A number as people say it: 12, 3.4 k, 5.6 M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {letter}"
    return f"{count:.3g}" if count % 1 else f"{count:.0f}"


def bytes_text(count: float) -> str:
    """Bytes, likewise: 590 B, 2.26 kB."""
    said = count_text(count)
    return f"{said}B" if said[-1].isalpha() else f"{said} B"


def fault_text(fault: Mapping[str, Any]) -> str:
    """`down`, `delay 5 ms, loss 1 %`, or nothing if nothing is wrong."""
    words = fault["impairment"]
    parts = [f"{word} {_UNIT.sub(' ', str(words[word]))}" for word in _TOLD if word in words]
    if parts and "match" in words:
        match = str(words["match"])
        parts[-1] += f" on {match if len(match) <= _MATCH_MAX else match[: _MATCH_MAX - 1] + '…'}"
    return ", ".join([*(["down"] if fault["state"] == "down" else []), *parts])


def link_faults(link: Mapping[str, Any]) -> list[str]:
    """What is wrong with a link: nothing, one text for both directions, or one for each that has a fault."""
    there, back = fault_text(link["a_to_b"]), fault_text(link["b_to_a"])
    if there == back:
        return [there] if there else []
    told = ((link["b"], there), (link["a"], back))
    return [f"to {kernel}: {text}" for kernel, text in told if text]


def nic_faults(kernel: Mapping[str, Any]) -> list[str]:
    """What is wrong with a kernel's NIC, likewise."""
    out, into = (fault_text(kernel["nic"][direction]) for direction in ("out", "in"))
    if out == into:
        return [f"NIC: {out}"] if out else []
    return [f"NIC {direction}: {text}" for direction, text in (("out", out), ("in", into)) if text]


def link_is_cut(link: Mapping[str, Any]) -> bool:
    """Whether no frame passes, in one direction or both."""
    return "down" in (link["a_to_b"]["state"], link["b_to_a"]["state"])


def nic_is_cut(kernel: Mapping[str, Any]) -> bool:
    """Whether no frame passes its NIC, in one direction or both."""
    return "down" in (kernel["nic"]["out"]["state"], kernel["nic"]["in"]["state"])


def memory_text(kernel: Mapping[str, Any]) -> str:
    """What it may have: `512 MiB`."""
    limit = kernel["memory_bytes"]
    return f"{limit >> 20} MiB" if limit else "no memory limit"
