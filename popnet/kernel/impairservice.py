"""The service `impair` of every kernel's daemon: the primary has it set, cut and tell the impairments of
links and NICs, which this kernel's pump carries out."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from popnet.core.errors import Refused
from popnet.machine.wires import read_impairment
from popnet.message.stream import Stream
from popnet.net.impairment import ImpairPump, Setting, apply, observed


class ImpairService:
    """`impair`: for the primary alone.

    Parameters: settings, a list of {place, kid, name, impairment (words, or null), down (or null)}; and tell,
    a list of [place, kid]. Result: {"told": figures of each}, as `popnet.net.impairment.observed` has them.
    """

    def __init__(self, pump: ImpairPump) -> None:
        self._pump = pump

    async def __call__(self, stream: Stream) -> None:
        if stream.peer != 0:
            raise Refused("impair: only the primary may")
        settings = list(map(setting_from, stream.params.get("settings", ())))
        for setting in settings:
            if setting.impairment is not None and setting.impairment.match:
                await asyncio.to_thread(apply, self._pump, setting)  # names of hosts may be looked up
            else:
                apply(self._pump, setting)
        told = [observed(self._pump.impair_figures(*place)) for place in stream.params.get("tell", ())]
        await stream.close({"told": told})


def setting_from(data: Mapping[str, Any]) -> Setting:
    """A setting as `setting_json` wrote it."""
    words = data["impairment"]
    impairment = None if words is None else read_impairment(words)
    return Setting(data["place"], data["kid"], data["name"], impairment, data["down"])


def setting_json(setting: Setting) -> dict[str, Any]:
    return {
        "place": setting.place,
        "kid": setting.kid,
        "name": setting.name,
        "impairment": None if setting.impairment is None else setting.impairment.words(),
        "down": setting.down,
    }


def apply_all(pump: ImpairPump, settings: Iterable[Mapping[str, Any]]) -> None:
    """What a kernel is told at boot, before its first frame. Raises Refused, Unavailable."""
    for data in settings:
        apply(pump, setting_from(data))
