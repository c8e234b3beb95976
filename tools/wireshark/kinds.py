"""Writes the tables of popnet.lua from popnet/message: kinds, flags, and numbers that are words of a group.

python tools/wireshark/kinds.py     after a kind was added; a test says when
"""

from pathlib import Path
from typing import Final

from popnet.message import membership
from popnet.message.kinds import Flag, Kind

DISSECTOR: Final = Path(__file__).with_name("popnet.lua")
BEGIN: Final = "-- BEGIN TABLES\n"
END: Final = "-- END TABLES\n"


def tables() -> str:
    kinds = "".join(f'    [{kind.value}] = "{kind.name}",\n' for kind in Kind)
    flags = "".join(f'    [{flag.value}] = "{flag.name}",\n' for flag in Flag)
    named = {getattr(membership, name): name.lower() for name in ("HELLO", "GO", "HOLD", "GOODBYE")}
    words = "".join(f'    [{number}] = "{name}",\n' for number, name in named.items())
    return f"local KINDS = {{\n{kinds}}}\nlocal FLAGS = {{\n{flags}}}\nlocal WORDS = {{\n{words}}}\n"


def written(text: str) -> str:
    """The dissector *text* with the tables as they are now."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + tables() + END + rest.split(END)[1]


if __name__ == "__main__":
    DISSECTOR.write_text(written(DISSECTOR.read_text()))
