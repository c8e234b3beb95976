"""The registry: services and watches over fake links that restart, with kernels that die at any moment."""

import asyncio
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popnet.core import limits
from popnet.core.errors import LinkViolation, NoSuchKernel, NoSuchService, PeerDied, Refused
from popnet.message import registryclient, registryshell
from popnet.message.kinds import Kind
from popnet.message.notice import Change, Notice
from popnet.message.registry import Blocked, Down, Registry, Resume, Sync
from popnet.message.registryshell import sync_of, wishes_of
from popnet.message.watching import Watch

from .ends import outcome, until
from .mesh import QUIET, Mesh, mesh_of, turns

NAMES = {0: "k0", 1: "k1", 2: "k2"}
ALL = {1: ("*", None)}


def texts(registry: Registry, event: Any) -> list[str]:
    """What an event makes the registry tell, short."""
    told = []
    for tell in registry.handle(event):
        for key in ("snapshot", "notice"):
            notices = tell.body.get(key, [])
            for value in notices if key == "snapshot" else [notices] if notices else []:
                notice = Notice.of_json(value)
                told.append(f"{tell.kid}: {notice.change.value} {notice.name}")
    return told


# The machine


def test_only_those_who_asked_are_told() -> None:
    registry = Registry(NAMES)
    registry.handle(Sync(1, 1, 1, watches={1: ("service/a*", None)}))
    registry.handle(Sync(0, 1, 1))
    assert texts(registry, Sync(2, 1, 1, {"abc": (1, 1), "b": (1, 2)})) == ["1: service-up abc"]
    assert texts(registry, Sync(1, 1, 1)) == []
    assert texts(registry, Down(2, 1, "died")) == []


def test_a_snapshot_comes_first_kernels_before_their_services() -> None:
    registry = Registry(NAMES)
    registry.handle(Sync(2, 1, 1, {"b": (1, 2), "a": (1, 1)}))
    assert texts(registry, Sync(1, 1, 1, watches=ALL)) == [
        "1: kernel-up k1",
        "1: kernel-up k2",
        "1: service-up a",
        "1: service-up b",
    ]


def test_a_death_takes_the_services_down_first() -> None:
    registry = Registry(NAMES)
    registry.handle(Sync(1, 1, 1, watches=ALL))
    registry.handle(Sync(2, 4, 1, {"a": (1, 1), "b": (3, 2)}))
    tells = registry.handle(Down(2, 4, "killed"))
    notices = [Notice.of_json(tell.body["notice"]) for tell in tells]
    assert [(n.change, n.name, n.version, n.generation, n.reason) for n in notices] == [
        (Change.SERVICE_DOWN, "a", 1, 4, "killed"),
        (Change.SERVICE_DOWN, "b", 3, 4, "killed"),
        (Change.KERNEL_DOWN, "k2", 0, 4, "killed"),
    ]
    assert registry.handle(Down(2, 4, "its daemon ended")) == []


def test_the_wishes_of_the_dead_are_refused() -> None:
    registry = Registry(NAMES)
    registry.handle(Down(2, 3, "failed to boot"))
    assert registry.handle(Sync(2, 3, 1, {"a": (1, 1)})) == []
    assert registry.services() == []
    registry.handle(Sync(2, 4, 1, {"a": (1, 1)}))
    assert [notice.name for notice in registry.services()] == ["a"]
    assert registry.handle(Down(2, 3, "late news")) == []
    assert [notice.name for notice in registry.services()] == ["a"]


def test_a_newer_generation_ends_the_older() -> None:
    registry = Registry(NAMES)
    registry.handle(Sync(1, 1, 1, watches=ALL))
    registry.handle(Sync(2, 1, 1, {"a": (1, 1)}))
    assert texts(registry, Sync(2, 2, 1)) == ["1: service-down a", "1: kernel-down k2", "1: kernel-up k2"]


def test_a_service_registered_anew_goes_down_and_up() -> None:
    registry = Registry(NAMES)
    registry.handle(Sync(1, 1, 1, watches=ALL))
    registry.handle(Sync(2, 1, 1, {"a": (1, 1)}))
    assert texts(registry, Sync(2, 1, 1, {"a": (1, 1)})) == []
    assert texts(registry, Sync(2, 1, 1, {"a": (1, 2)})) == ["1: service-down a", "1: service-up a"]
    assert texts(registry, Sync(2, 1, 1, {"a": (2, 2)})) == ["1: service-down a", "1: service-up a"]


def test_a_new_session_gets_what_came_after_the_number_it_saw_last() -> None:
    registry = Registry(NAMES)
    registry.handle(Sync(1, 1, 1, watches=ALL))
    seen = registry.seq
    registry.handle(Sync(2, 1, 1, {"a": (1, 1)}))
    registry.handle(Down(2, 1, "died"))
    replay = ["1: kernel-up k2", "1: service-up a", "1: service-down a", "1: kernel-down k2"]
    assert texts(registry, Sync(1, 1, 2, watches={1: ("*", seen)})) == replay
    assert texts(registry, Sync(1, 1, 2, watches={1: ("*", seen)})) == [], "the same session: under way"


def test_who_was_away_for_too_long_gets_a_snapshot() -> None:
    registry = Registry(NAMES, log_max=2)
    registry.handle(Sync(1, 1, 1, watches=ALL))
    seen = registry.seq
    for port in range(1, 5):
        registry.handle(Sync(2, 1, 1, {"a": (1, port)}))
    tells = registry.handle(Sync(1, 1, 2, watches={1: ("*", seen)}))
    assert [list(tell.body) for tell in tells] == [["session", "watch", "seq", "snapshot"]]


def test_who_is_blocked_is_told_nothing_until_it_begins_a_session() -> None:
    registry = Registry(NAMES)
    registry.handle(Sync(1, 1, 1, watches=ALL))
    seen = registry.seq
    assert registry.handle(Resume(1)) == []
    registry.handle(Blocked(1))
    assert texts(registry, Sync(2, 1, 1)) == []
    assert [tell.body for tell in registry.handle(Resume(1))] == [{"resync": True}]
    assert texts(registry, Sync(1, 1, 2, watches={1: ("*", seen)})) == ["1: kernel-up k2"]
    assert registry.handle(Resume(1)) == []
    registry.handle(Blocked(7))


def test_wishes_cross_a_link_as_they_are() -> None:
    sync = Sync(3, 2, 7, {"exec": (1, 4)}, {1: ("kernel/*", None), 2: ("*", 17)}, {"g": (9, 11)})
    assert sync_of(3, json.loads(wishes_of(sync))) == sync


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {},
        {"services": {"a": 1}},
        {"services": {"a": [1]}},
        {"services": {"x" * 65: [1, 1]}},
        {"services": {f"s{n}": [1, n] for n in range(limits.SERVICES_MAX + 1)}},
        {"watches": {"x": ["*", None]}},
        {"watches": {"1": ["*" * 200, None]}},
        {"watches": {"1": ["*", "1"]}},
        {"groups": {"g": 1}},
        {"groups": {"g": []}},
        {"groups": {"g": ["1"]}},
        {"groups": {"g": [1], "h": [1]}},
        {"groups": {"g": list(range(limits.GROUPS_MAX + 1))}},
    ],
)
def test_wishes_that_make_no_sense_are_refused(wrong: Any) -> None:
    good = {"generation": 1, "session": 1, "services": {}, "watches": {}, "groups": {}}
    sync_of(1, good)
    with pytest.raises(LinkViolation):
        sync_of(1, {**good, **wrong} if wrong else wrong)


def test_a_mirror_tells_the_difference_only() -> None:
    watch = Watch("*")
    k1, a = Notice(Change.KERNEL_UP, 1, 1, "k1"), Notice(Change.SERVICE_UP, 1, 1, "a", 1, 1)
    k2 = Notice(Change.KERNEL_UP, 2, 1, "k2")
    assert list(watch.notice(1, k1)) == [], "nothing before the snapshot"
    assert list(watch.snapshot(3, [k1, a])) == [k1, a]
    assert list(watch.notice(3, a)) == []
    assert [notice.change for notice in watch.snapshot(9, [k2])] == [
        Change.SERVICE_DOWN,
        Change.KERNEL_DOWN,
        Change.KERNEL_UP,
    ]
    assert list(watch.snapshot(8, [])) == []


# Services over links


async def backwards(kid: int, body: bytes) -> bytes:
    return body[::-1]


async def test_services_are_called_and_sent_to_by_name() -> None:
    async with mesh_of(3) as mesh:
        got: list[tuple[int, bytes]] = []
        mesh.ends[2].register("svc", 1, lambda kid, body: got.append((kid, body)), backwards)
        assert await mesh.ends[1].call_service(2, "svc", b"abc", 5.0) == b"cba"
        assert await mesh.ends[1].call_service("k2", "svc", b"xy", 5.0, high=True) == b"yx"
        await mesh.ends[1].send("k2", "svc", b"1")
        await mesh.ends[2].send(2, "svc", b"own")
        await until(lambda: len(got) == 2)
        assert sorted(got) == [(1, b"1"), (2, b"own")]
        assert isinstance(await outcome(mesh.ends[1].send("k9", "svc", b"")), NoSuchKernel)


async def test_a_small_message_to_a_service_is_one_cache_line() -> None:
    async with mesh_of(2) as mesh:
        got: list[bytes] = []
        mesh.ends[0].register("svc", 1, lambda kid, body: got.append(body))
        await mesh.ends[1].send(0, "svc", b"resolve")
        await until(lambda: len(got) == 1)
        link = mesh.ends[1]._peers[0]._link  # type: ignore[attr-defined]
        link = getattr(link, "_link", link)
        for size, lines in ((48, 1), (49, 2)):
            before = link.counters()["produced"]
            await mesh.ends[1].send(0, "svc", bytes(size))
            assert link.counters()["produced"] - before == 64 * lines


async def test_an_unknown_service_is_an_error_and_counted() -> None:
    async with mesh_of(2) as mesh:
        a, b = mesh.ends[1], mesh.ends[0]
        for work in (a.send(0, "nothing", b""), a.call_service(0, "nothing", b"", 5.0)):
            error = await outcome(work)
            assert isinstance(error, NoSuchService) and "'nothing'" in str(error)
        assert b.counters()["unknown_services"] == 2
        b.register("deaf", 1)
        assert isinstance(await outcome(a.call_service(0, "deaf", b"", 5.0)), NoSuchService)
        assert isinstance(await outcome(a.send(0, "x" * 65, b"")), Refused)


async def test_a_message_to_a_service_that_went_is_answered_and_named() -> None:
    async with mesh_of(2) as mesh:
        told: list[tuple[int, str]] = []
        got: list[bytes] = []
        mesh.ends[1].ports.on_unknown = lambda kid, name: told.append((kid, name))
        mesh.ends[0].register("svc", 1, lambda kid, body: got.append(body))
        await mesh.ends[1].send(0, "svc", b"1")
        await until(lambda: got)
        mesh.ends[0].unregister("svc")
        await mesh.ends[1].send(0, "svc", b"2")
        await until(lambda: told)
        assert told == [(0, "svc")]
        assert mesh.ends[0].counters()["unknown_services"] == 1
        assert mesh.ends[1].counters()["unknown_to_peer"] == 1
        mesh.ends[0].register("svc", 2, lambda kid, body: got.append(body))
        await mesh.ends[1].send(0, "svc", b"3")
        await until(lambda: len(got) == 2)
        assert got == [b"1", b"3"], "never a message meant for another"


async def test_a_service_registered_anew_is_called_without_an_error() -> None:
    async with mesh_of(2) as mesh:
        mesh.ends[0].register("svc", 1, on_call=backwards)
        assert await mesh.ends[1].call_service(0, "svc", b"ab", 5.0) == b"ba"
        mesh.ends[0].unregister("svc")
        mesh.ends[0].register("svc", 2, on_call=backwards)
        assert await mesh.ends[1].call_service(0, "svc", b"cd", 5.0) == b"dc"


async def test_a_handlers_own_no_such_service_is_not_tried_again() -> None:
    calls: list[bytes] = []

    async def relay(kid: int, body: bytes) -> bytes:
        calls.append(body)
        raise NoSuchService("behind me")

    async with mesh_of(2) as mesh:
        mesh.ends[0].register("svc", 1, on_call=relay)
        error = await outcome(mesh.ends[1].call_service(0, "svc", b"", 5.0))
        assert isinstance(error, NoSuchService) and str(error) == "behind me"
        assert len(calls) == 1


async def test_the_next_generation_has_ports_of_its_own() -> None:
    async with mesh_of(3) as mesh:
        for generation in (1, 2):
            mesh.ends[2].register("other" if generation == 2 else "svc", 1, on_call=backwards)
            if generation == 1:
                assert await mesh.ends[1].call_service(2, "svc", b"ab", 5.0) == b"ba"
                await mesh.kill(2)
                assert isinstance(await outcome(mesh.ends[1].call_service(2, "svc", b"", 5.0)), PeerDied)
                mesh.boot(2)
        assert isinstance(await outcome(mesh.ends[1].call_service(2, "svc", b"", 5.0)), NoSuchService)


async def test_streams_are_services_too() -> None:
    async def nothing(stream: Any) -> None:
        await stream.accept()

    async with mesh_of(2) as mesh:
        mesh.ends[1].serve("exec", nothing)
        mesh.ends[1].serve("new", nothing, version=3)
        await until(lambda: len(mesh.registry.services()) == 2)
        assert [(n.kid, n.name, n.version) for n in mesh.registry.services()] == [
            (1, "exec", 1),
            (1, "new", 3),
        ]
        mesh.ends[1].unserve("exec")
        await until(lambda: len(mesh.registry.services()) == 1)


# Watches over links


async def test_others_see_a_kernel_die_and_come_back_each_once() -> None:
    async with mesh_of(3) as mesh:
        seen: dict[int, list[tuple[str, int, str]]] = {0: [], 1: []}
        for kid, got in seen.items():
            mesh.ends[kid].watch(
                "*[/]k2", lambda n, got=got: got.append((n.change.value, n.generation, n.reason))
            )
            mesh.ends[kid].watch(
                "service/svc", lambda n, got=got: got.append((n.change.value, n.generation, n.reason))
            )
        mesh.ends[2].register("svc", 1)
        await until(lambda: all(len(got) == 2 for got in seen.values()))
        await mesh.kill(2, "kill -9")
        await turns(QUIET)
        mesh.boot(2).register("svc", 1)
        await turns(QUIET)
        expected = [
            ("kernel-up", 1, ""),
            ("service-up", 1, ""),
            ("service-down", 1, "kill -9"),
            ("kernel-down", 1, "kill -9"),
            ("kernel-up", 2, ""),
            ("service-up", 2, ""),
        ]
        assert seen == {0: expected, 1: expected}


async def test_a_watch_ends_even_from_inside_its_callback() -> None:
    async with mesh_of(3) as mesh:
        got: list[Notice] = []

        def once(notice: Notice) -> None:
            got.append(notice)
            mesh.ends[1].unwatch(number)
            raise RuntimeError("a bug")

        number = mesh.ends[1].watch("kernel/*", once)
        await turns(QUIET)
        assert len(got) == 1
        assert mesh.ends[1].counters()["handler_errors"] == 1
        mesh.ends[1].unwatch(number)


async def test_a_kernel_that_is_too_slow_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registryshell, "RETRY_S", 0.0)
    async with mesh_of(3) as mesh:
        got: list[str] = []
        mesh.ends[1].watch("service/*", lambda notice: got.append(f"{notice.change.value} {notice.name}"))
        await turns(QUIET)
        full = {"now": True}
        post = mesh.ends[0].post

        def sometimes(kid: int, kind: int, body: bytes, high: bool = False) -> bool:
            return not (full["now"] and kid == 1) and post(kid, kind, body, high)

        monkeypatch.setattr(mesh.ends[0], "post", sometimes)
        for name in ("a", "b", "c"):
            mesh.ends[2].register(name, 1)
            await turns(20)
        mesh.ends[2].unregister("b")
        await turns(20)
        assert got == []
        full["now"] = False
        await until(lambda: len(got) == 4)
        await turns(QUIET)
        assert got == ["service-up a", "service-up b", "service-up c", "service-down b"]


async def test_limits_are_said_where_they_are_met() -> None:
    async with mesh_of(1) as mesh:
        for _ in range(limits.WATCHES_MAX):
            mesh.ends[0].watch("*", lambda notice: None)
        with pytest.raises(Refused):
            mesh.ends[0].watch("*", lambda notice: None)
        for wrong in ("", "x" * 65):
            with pytest.raises(Refused):
                mesh.ends[0].register(wrong, 1)
        for n in range(limits.SERVICES_MAX):
            mesh.ends[0].register(f"s{n}", 1)
        with pytest.raises(Refused):
            mesh.ends[0].register("more", 1)
        await until(lambda: len(mesh.registry.services()) == limits.SERVICES_MAX)


async def test_notices_come_from_the_primary_only() -> None:
    async with mesh_of(3) as mesh:
        got: list[Notice] = []
        mesh.ends[1].watch("*", got.append)
        await turns(QUIET)
        before = len(got)
        mesh.relink(1, 2)
        mesh.ends[2].post(1, Kind.NOTICE, b'{"session":1,"watch":1,"seq":99,"notice":[]}')
        await until(lambda: mesh.ends[1].counters().get("violations"))
        assert not mesh.ends[1].has_link(2)
        assert len(got) == before


# The property


SIZE = 4
PATTERNS = ("*", "kernel/*", "service/*", "service/a", "kernel/k2")
OPERATIONS = ("register", "register", "unregister", "kill", "boot", "boot", "watch", "watch", "unwatch")
OPERATIONS += ("relink", "relink", "relink", "turns")

operation = st.tuples(
    st.sampled_from(OPERATIONS), st.integers(0, SIZE - 1), st.integers(0, 4), st.integers(0, 6)
)


class Trial:
    """Does operations, and compares what watchers saw with what the registry says happened."""

    def __init__(self, mesh: Mesh, log_max: int) -> None:
        self.mesh = mesh
        self.machine = mesh.registry._machine = Registry(mesh.names, log_max)
        self.history: list[Notice] = []
        self.services: dict[int, set[str]] = {0: set()}
        self.watchers: list[tuple[int, int, int, str, list[Notice]]] = []
        change = self.machine._change

        def recorded(notice: Notice) -> Any:
            self.history.append(notice)
            return change(notice)

        self.machine._change = recorded  # type: ignore[method-assign]

    async def do(self, name: str, kid: int, which: int, wait: int) -> None:
        mesh, service = self.mesh, "abcde"[which]
        up = kid in mesh.ends
        if name == "register" and up and service not in self.services[kid]:
            self.services[kid].add(service)
            mesh.ends[kid].register(service, 1)
        elif name == "unregister" and up and service in self.services[kid]:
            self.services[kid].discard(service)
            mesh.ends[kid].unregister(service)
        elif name == "kill" and up and kid:
            del self.services[kid]
            await mesh.kill(kid)
        elif name == "boot" and not up:
            self.services[kid] = set()
            mesh.boot(kid)
        elif name == "watch" and up:
            got: list[Notice] = []
            pattern = PATTERNS[which]
            number = mesh.ends[kid].watch(pattern, got.append)
            self.watchers.append((kid, mesh.generations[kid], number, pattern, got))
        elif name == "unwatch" and self.watchers:
            kid, generation, number, _, _ = self.watchers.pop(which % len(self.watchers))
            if kid in mesh.ends and mesh.generations[kid] == generation:
                mesh.ends[kid].unwatch(number)
        elif name == "relink" and up and kid:
            mesh.relink(0, kid)
        await turns(wait)

    def check(self, exact: bool) -> None:
        check_history(self.history)
        up = {(n.kid, n.name) for n in state_after(self.history) if n.change is Change.SERVICE_UP}
        assert up == {(kid, name) for kid, names in self.services.items() for name in names}
        for kid, generation, _, pattern, got in self.watchers:
            if kid in self.mesh.ends and self.mesh.generations[kid] == generation:
                assert state_after(got) == [n for n in state_after(self.history) if n.matches(pattern)]
                if exact:
                    assert is_snapshot_and_rest(got, self.history, pattern), (got, self.history)


def state_after(notices: list[Notice]) -> list[Notice]:
    """What is up at the end. Each comes up and goes down once."""
    up: dict[Any, Notice] = {}
    for notice in notices:
        if notice.change.up:
            assert notice.identity not in up, f"up twice: {notice}"
            up[notice.identity] = notice
        else:
            assert up.pop(notice.identity, None), f"down, but was not up: {notice}"
    return sorted(up.values(), key=lambda notice: notice.identity)


def check_history(history: list[Notice]) -> None:
    """Services live inside their kernel's life."""
    kernels: set[tuple[int, int]] = set()
    services: list[tuple[int, int]] = []
    for notice in history:
        who = (notice.kid, notice.generation)
        match notice.change:
            case Change.KERNEL_UP:
                kernels.add(who)
            case Change.SERVICE_UP:
                assert who in kernels
                services.append(who)
            case Change.SERVICE_DOWN:
                services.remove(who)
            case Change.KERNEL_DOWN:
                assert who not in services
                kernels.remove(who)


def is_snapshot_and_rest(got: list[Notice], history: list[Notice], pattern: str) -> bool:
    """Whether *got* is what was up at some moment, and then everything that happened, in order."""
    matching = [notice for notice in history if notice.matches(pattern)]
    for start in range(len(matching) + 1):
        ups = state_after(matching[:start])
        rest = matching[start:]
        if got[len(ups) :] == rest and sorted(got[: len(ups)], key=lambda n: n.identity) == ups:
            return True
    return False


async def trial(
    operations: list[tuple[str, int, int, int]], log_max: int = 1 << 20, real: bool = False
) -> None:
    async with mesh_of(SIZE, real) as mesh:
        tried = Trial(mesh, log_max)
        for kid in range(1, SIZE):
            tried.services[kid] = set()
        for kid in range(SIZE):
            await tried.do("watch", kid, 0, 0)
        for one in operations:
            await tried.do(*one)
        await turns(QUIET)
        tried.check(exact=log_max > 1 << 10)


@settings(max_examples=100, deadline=None)
@given(st.lists(operation, max_size=40))
def test_every_watcher_sees_each_change_once_in_order(operations: list[tuple[str, int, int, int]]) -> None:
    asyncio.run(trial(operations))


@settings(max_examples=50, deadline=None)
@given(st.lists(operation, max_size=40))
def test_whoever_was_away_too_long_ends_up_with_what_is_there(
    operations: list[tuple[str, int, int, int]],
) -> None:
    asyncio.run(trial(operations, log_max=2))


def dice(seed: int) -> list[tuple[str, int, int, int]]:
    random_ = random.Random(seed)
    return [
        (random_.choice(OPERATIONS), random_.randrange(SIZE), random_.randrange(5), random_.randrange(7))
        for _ in range(40)
    ]


def first_failure(seeds: int = 60) -> int | None:
    for seed in range(seeds):
        try:
            asyncio.run(trial(dice(seed)))
        except AssertionError:
            return seed
    return None


def test_the_trial_passes_with_dice_too() -> None:
    assert first_failure() is None


@pytest.mark.parametrize("seed", range(5))
def test_the_same_over_real_links(seed: int) -> None:
    asyncio.run(trial(dice(seed), real=True))


def test_control_without_sessions_something_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a link that restarts, and nobody begins anew."""
    monkeypatch.setattr(registryclient.RegistryClient, "_begin_session", lambda self: self.changed())
    assert first_failure() is not None


def test_control_without_numbers_something_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a session that begins with a snapshot that nobody compares."""

    def told(self: Watch, seq: int, ups: list[Notice]) -> Any:
        self.seen = None
        return iter(ups)

    def noticed(self: Watch, seq: int, notice: Notice) -> Any:
        return iter([notice])

    monkeypatch.setattr(Watch, "snapshot", told)
    monkeypatch.setattr(Watch, "notice", noticed)
    assert first_failure() is not None


def test_the_checks_see_what_is_wrong() -> None:
    up = Notice(Change.KERNEL_UP, 1, 1, "k1")
    service = Notice(Change.SERVICE_UP, 1, 1, "a", 1, 1)
    history = [up, service, service.down(""), up.down("")]
    check_history(history)
    assert is_snapshot_and_rest(history, history, "*")
    assert not is_snapshot_and_rest(history[:-1], history, "*")
    assert not is_snapshot_and_rest([up, *history[:2][::-1]], history, "kernel/*")
    for wrong in ([up, up], [service.down("")]):
        with pytest.raises(AssertionError):
            state_after(wrong)
    with pytest.raises(AssertionError):
        check_history([up, service, up.down("")])
