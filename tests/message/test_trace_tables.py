"""The dissector for Wireshark has the kinds and flags that there are."""

import importlib.util
from pathlib import Path
from types import ModuleType

from popnet.message.kinds import Flag, Kind

TOOL = Path(__file__).parents[2] / "tools/wireshark/kinds.py"


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wireshark_kinds", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_dissector_are_those_of_the_code() -> None:
    text = TOOL.with_name("popnet.lua").read_text()
    assert tool().written(text) == text, "a kind is new: run tools/wireshark/kinds.py"


def test_the_tables_have_every_kind_and_flag_and_a_missing_one_is_seen() -> None:
    made = tool()
    tables = made.tables()
    assert all(f'[{number.value}] = "{number.name}"' in tables for number in [*Kind, *Flag])
    text = made.DISSECTOR.read_text()
    assert made.written(text.replace('    [4] = "DATA",\n', "")) == text
