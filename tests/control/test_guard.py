"""Who may control a machine, and what an error looks like."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from popnet.control import guard
from popnet.control.client import Client
from popnet.control.stream import connect, follow
from popnet.core.errors import PeerDied, PopnetError, Refused
from tests.control.fakes import FakeService, Served


async def call(served: Served, method: str, path: str) -> Any:
    client = Client("m", run_dir=served.run_dir)
    return await asyncio.to_thread(getattr(client, method), path)


async def test_strangers_are_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = os.getuid()
    monkeypatch.setattr(guard.os, "getuid", lambda: ours + 1)
    monkeypatch.setattr(guard, "_ROOT", ours + 2)
    with pytest.raises(Refused, match="another user's"):
        await call(served, "get", "/v1/machine")
    with pytest.raises(Refused, match="another user's"):
        await connect(served.socket, "/v1/kernels/k1/stream/echo")
    monkeypatch.setattr(guard, "_ROOT", ours)
    assert (await call(served, "get", "/v1/machine"))["name"] == "m"


async def test_wrong_requests_are_answered_with_json(served: Served) -> None:
    with pytest.raises(PopnetError, match="GET /v2/what: Not Found"):
        await call(served, "get", "/v2/what")
    with pytest.raises(PopnetError, match="POST /v1/machine: Method Not Allowed"):
        await call(served, "post", "/v1/machine")
    with pytest.raises(Refused, match="not a number"):
        await call(served, "get", "/v1/events?since=-1")
    with pytest.raises(Refused, match="follow is 0 or 1"):
        await call(served, "get", "/v1/events?follow=maybe")


async def test_a_fault_of_ours_is_logged_and_answered(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FakeService, "machine", lambda self: 1 / 0)
    with pytest.raises(PopnetError, match="by a fault of its own") as caught:
        await call(served, "get", "/v1/machine")
    assert "log" in caught.value.hint
    assert "ZeroDivisionError" in caplog.text


async def test_a_fault_of_ours_in_the_middle_of_an_answer(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def events(self: FakeService, since: int, follow: bool) -> AsyncIterator[dict[str, Any]]:
        yield {"seq": 1 / since}

    monkeypatch.setattr(FakeService, "events", events)
    with pytest.raises(PeerDied):
        [line async for line in follow(served.socket, "/v1/events")]
    assert caplog.text.count("ZeroDivisionError") >= 1
    caplog.clear()

    async def fails(name: str, service: str, params: dict[str, Any]) -> Any:
        raise ZeroDivisionError

    served.service.open = fails  # type: ignore[method-assign]
    with pytest.raises(PeerDied):
        await connect(served.socket, "/v1/kernels/k1/stream/echo")
    assert "ZeroDivisionError" in caplog.text
    assert (await call(served, "get", "/v1/machine"))["name"] == "m"
