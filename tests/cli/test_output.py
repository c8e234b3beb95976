"""Tables, versioned JSON, and YAML that a YAML parser reads back as it was."""

import json
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from popnet.cli.output import Column, document, paint, print_list, table, yaml_text
from popnet.cli.settings import Settings

ROWS = [{"name": "k1", "n": 7}, {"name": "primary", "n": 12}]
COLUMNS = [
    Column("NAME", lambda row: row["name"], colour=lambda text: "green" if text == "k1" else ""),
    Column("N", lambda row: str(row["n"]), right=True),
]


def test_table_aligns() -> None:
    assert table(ROWS, COLUMNS) == ["NAME      N", "k1        7", "primary  12"]


def test_table_of_nothing_has_its_titles() -> None:
    assert table([], COLUMNS) == ["NAME  N"]


def test_colours_do_not_shift_columns() -> None:
    lines = table(ROWS, COLUMNS, colours=True)
    assert lines[1] == "\x1b[32mk1\x1b[0m" + " " * 5 + "   7"


def test_paint_off_is_plain() -> None:
    assert paint("x", "red", on=False) == "x"


def test_document_is_versioned() -> None:
    assert document("KernelList", ROWS) == {"apiVersion": "popnet/v1", "kind": "KernelList", "items": ROWS}


@pytest.mark.parametrize(("output", "parse"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_print_list_for_programs(output: str, parse: Any) -> None:
    import click

    @click.command()
    def show() -> None:
        print_list(Settings(output=output), "ThingList", ROWS, COLUMNS)

    result = CliRunner().invoke(show)
    assert parse(result.output) == {"apiVersion": "popnet/v1", "kind": "ThingList", "items": ROWS}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_yaml_round_trip(value: Any) -> None:
    assert yaml.safe_load("\n".join(yaml_text(value))) == value
