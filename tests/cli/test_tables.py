"""Tables at a terminal."""

from typing import Any

import pytest

from popnet.cli.output import Column
from popnet.cli.tables import print_table

ROWS: list[dict[str, Any]] = [{"name": "k1", "state": "online"}, {"name": "primary", "state": "failed"}]
COLUMNS = [
    Column("NAME", lambda row: row["name"]),
    Column("STATE", lambda row: row["state"], colour=lambda text: "green" if text == "online" else "red"),
]


def test_a_title_and_a_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS, COLUMNS, width=40)
    title, rule, *rows = capsys.readouterr().out.splitlines()
    assert title.split() == ["NAME", "STATE"]
    assert set(rule.strip()) == {"─"}
    assert [row.split() for row in rows] == [["k1", "online"], ["primary", "failed"]]


def test_markup_in_a_cell_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"name": "[red]k1", "state": "online"}], COLUMNS, width=40)
    assert "[red]k1" in capsys.readouterr().out


def test_what_does_not_fit_is_folded_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"name": "x" * 60, "state": "online"}], COLUMNS, width=40)
    assert capsys.readouterr().out.count("x") == 60
