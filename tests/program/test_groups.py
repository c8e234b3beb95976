"""Groups of programs: members of their own, in kernels with a registry."""

import asyncio
from pathlib import Path

import pytest

from popnet.core.errors import DeadlineExceeded, IllegalState, Overloaded, PeerDied, Refused
from popnet.kernel import memberships
from popnet.message.membership import Member
from popnet.program import hosted
from popnet.program.connection import Connection
from popnet.program.greeting import HOST
from popnet.program.group import ProgramGroup
from popnet.program.routed import Routed
from tests.message.ends import outcome

from .test_programs import both, drop
from .town import Town, town
from .village import fails, until

LONG_S = 60.0
SOON_S = 0.2


class Inbox:
    def __init__(self) -> None:
        self.got: list[tuple[Member, bytes]] = []

    def __call__(self, member: Member, body: bytes) -> None:
        self.got.append((member, body))

    def of(self, group: ProgramGroup) -> list[bytes]:
        return [body for member, body in self.got if member == group.me]


async def joined(program: Connection, name: str = "g") -> tuple[ProgramGroup, Inbox]:
    group, inbox = program.group(name), Inbox()
    await group.join(inbox, LONG_S)
    return group, inbox


@both
async def test_programs_of_any_kernel_are_members(tmp_path: Path, attach: bool) -> None:
    async with town(tmp_path) as here:
        programs = [await here.program(kid, attach) for kid in (0, 1, 1, 2)]
        members = [await joined(program) for program in programs]
        assert here.mesh.registry.groups() == {"g": [0, 1, 1, 2]}, "two programs of one kernel are two"
        assert len({group.me for group, _ in members}) == 4
        await until(lambda: len({group.view for group, _ in members}) == 1)
        assert [group.members for group, _ in members] == [sorted(group.me for group, _ in members)] * 4  # type: ignore[type-var]
        for n in range(25):
            for index, (group, _) in enumerate(members):
                await group.send(b"%d of %d" % (n, index))
        await until(lambda: all(len(inbox.got) == 100 for _, inbox in members))
        for _, inbox in members:
            for index, (group, _) in enumerate(members):
                assert inbox.of(group) == [b"%d of %d" % (n, index) for n in range(25)]
        large = b"x" * 3_000_000
        await members[3][0].send(large, LONG_S)
        await until(lambda: all(inbox.got[-1][1] == large for _, inbox in members))
        assert programs[1].group("g") is members[1][0]


@both
async def test_sends_at_once_keep_their_order(tmp_path: Path, attach: bool) -> None:
    async with town(tmp_path) as here:
        sender, receiver = await here.program(1, attach), await here.program(2, attach)
        group, _ = await joined(sender)
        _, inbox = await joined(receiver)
        await asyncio.gather(*(group.send(b"%d" % n, LONG_S) for n in range(100)))
        await until(lambda: len(inbox.got) == 100)
        assert inbox.of(group) == [b"%d" % n for n in range(100)]


@both
async def test_who_leaves_gets_nothing_more_and_may_join_again(tmp_path: Path, attach: bool) -> None:
    async with town(tmp_path) as here:
        a, b = await here.program(1, attach), await here.program(2, attach)
        (of_a, _), (of_b, inbox) = await joined(a), await joined(b)
        first = of_b.me
        await of_a.send(b"1")
        await of_b.leave(LONG_S)
        assert [body for _, body in inbox.got] == [b"1"], "what was under way came before"
        assert (of_b.me, of_b.view, of_b.members) == (None, 0, [])
        for work in (of_b.send(b""), of_b.leave()):
            await fails(work, IllegalState)
        await of_a.send(b"2")
        again, second = await joined(b)
        assert again.me not in (None, first)
        await fails(again.join(Inbox()), IllegalState)
        await of_a.send(b"3")
        await until(lambda: second.got)
        assert (len(inbox.got), [body for _, body in second.got]) == (1, [b"3"])


@both
async def test_a_program_that_dies_leaves_at_once(tmp_path: Path, attach: bool) -> None:
    async with town(tmp_path) as here:
        a, b, beside = [await here.program(kid, attach) for kid in (1, 2, 2)]
        (of_a, _), (of_b, _), (of_c, inbox) = await joined(a), await joined(b), await joined(beside)
        await joined(b, "another")
        await of_b.send(b"last words")
        drop(b)
        await until(lambda: here.mesh.registry.groups() == {"g": [1, 2]})
        await until(lambda: of_a.members == sorted([of_a.me, of_c.me]))  # type: ignore[type-var]
        await of_a.send(b"on we go", LONG_S)
        await until(lambda: len(inbox.got) == 2)
        assert [body for _, body in inbox.got] == [b"last words", b"on we go"]
        assert here.programs[2].counters()["memberships"] == 1


@both
async def test_a_kernel_that_dies_takes_its_members_along(tmp_path: Path, attach: bool) -> None:
    async with town(tmp_path) as here:
        a, b = await here.program(1, attach), await here.program(2, attach)
        (of_a, inbox), (of_b, _) = await joined(a), await joined(b)
        await here.kill(2)
        await b.wait_closed()
        await fails(of_b.send(b""), PeerDied)
        await until(lambda: of_a.members == [of_a.me])
        here.boot(2)
        back, _ = await joined(await here.program(2, attach))
        await back.send(b"back")
        await until(lambda: inbox.of(back) == [b"back"])
        assert back.me is not None
        assert back.me.generation == 2


async def test_what_is_not_listed_may_not_be_joined(tmp_path: Path) -> None:
    async with town(tmp_path, groups=("listed",)) as here:
        me = await here.program(1)
        await joined(me, "listed")
        error = await fails(me.group("other").join(Inbox()), Refused)
        assert str(error) == "kernel k1 does not let its programs join the group 'other'"
        assert error.hint == "add it to `groups` of k1 in the machine file"
        assert here.programs[1].counters()["forbidden"] == 1
        assert await outcome(me.register("any", 1)) is None, "it says nothing of services"


async def test_a_list_of_services_closes_groups_too(tmp_path: Path) -> None:
    async with town(tmp_path, services=("echo",)) as here:
        me = await here.program(1)
        await fails(me.group("g").join(Inbox()), Refused)


async def test_a_list_of_both_opens_what_it_lists(tmp_path: Path) -> None:
    async with town(tmp_path, services=("echo",), groups=("g",)) as here:
        me = await here.program(1)
        await joined(me)


async def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memberships, "MEMBERSHIPS_MAX", 2)
    async with town(tmp_path) as here:
        a, b = await here.program(1), await here.program(1)
        first, _ = await joined(a)
        await joined(b)
        await fails(b.group("h").join(Inbox()), Overloaded)
        await first.leave()
        await joined(b, "h")
        for name in ("", "x" * 65):
            await fails(a.group(name).join(Inbox()), Refused)
        with pytest.raises(ValueError, match="at most"):
            await b.group("h").send(bytes(16 << 20))


@both
async def test_one_that_holds_holds_its_senders_back(tmp_path: Path, attach: bool) -> None:
    async with town(tmp_path) as here:
        a, b = await here.program(1, attach), await here.program(2, attach)
        (of_a, _), (of_b, inbox) = await joined(a), await joined(b)
        of_b.hold(True)
        await b.flush()
        await until(lambda: here.mesh.ends[1].counters().get("group_holds"))
        sent = 0
        while (error := await outcome(of_a.send(bytes(500_000), SOON_S))) is None:
            sent += 1
            assert sent < 100
        assert isinstance(error, Overloaded)
        assert inbox.got == []
        of_b.hold(False)
        await until(lambda: len(inbox.got) == sent)


async def stuck(
    here: Town, kid: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Connection, ProgramGroup, Inbox]:
    """A program that reads nothing from now on."""
    program = await here.program(kid)
    group, inbox = await joined(program)
    monkeypatch.setattr(program._endpoint, "_turn", lambda: None)
    return program, group, inbox


def go_on(program: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    program._endpoint._turn_coming = False
    program._endpoint.wake()


async def test_one_that_does_not_read_holds_its_senders_back_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town(tmp_path) as here:
        of_a, _ = await joined(await here.program(1))
        program, of_b, inbox = await stuck(here, 2, monkeypatch)
        sent = 0
        while (error := await outcome(of_a.send(b"%08d" % sent + bytes(200_000), SOON_S))) is None:
            sent += 1
            assert sent < 200
        assert isinstance(error, Overloaded)
        waiting = [hosted.waiting_size for hosted in here.programs[2]._connected()]
        assert 1 << 20 < waiting[0] < 4 << 20, "and the rest waits with its sender"
        go_on(program, monkeypatch)
        await until(lambda: len(inbox.got) == sent)
        assert [int(body[:8]) for body in inbox.of(of_a)] == list(range(sent))
        await of_a.send(b"after", LONG_S)
        await until(lambda: inbox.got[-1][1] == b"after")
        assert of_b.me is not None


async def test_one_that_is_too_far_behind_all_the_same_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(memberships, "BEHIND_MAX", 1 << 20)
        async with town(tmp_path) as here:
            of_a, _ = await joined(await here.program(1))
            await stuck(here, 2, patch)
            for _ in range(30):
                await outcome(of_a.send(bytes(200_000), SOON_S))
            await until(lambda: here.programs[2].counters()["connected"] == 0)
            await until(lambda: of_a.members == [of_a.me])
            await of_a.send(b"nobody holds me back", LONG_S)


async def test_a_join_that_is_given_up_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with town(tmp_path) as here:
        monkeypatch.setattr(here.mesh.ends[0], "_turn", lambda: None)
        me = await here.program(1)
        await fails(me.group("g").join(Inbox(), SOON_S), DeadlineExceeded)
        monkeypatch.undo()
        here.mesh.ends[0]._turn_coming = False
        here.mesh.ends[0].wake()
        await until(lambda: here.programs[1].counters()["memberships"] == 0)
        await until(lambda: here.mesh.registry.groups() == {})
        group, _ = await joined(me)
        assert group.members == [group.me]


async def test_a_join_that_is_given_up_when_it_was_done_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town(tmp_path) as here:
        me = await here.program(1)
        join = here.programs[1].join

        async def slow(program: hosted.Hosted, number: int, name: str, timeout_s: float) -> Member:
            member = await join(program, number, name, timeout_s)
            joining.cancel()
            return member

        monkeypatch.setattr(here.programs[1], "join", slow)
        joining = asyncio.ensure_future(me.group("g").join(Inbox(), LONG_S))
        await asyncio.wait([joining])
        assert joining.cancelled()
        await until(lambda: here.programs[1].counters()["memberships"] == 0)
        await until(lambda: here.mesh.registry.groups() == {})


@both
async def test_nonsense_about_groups_costs_its_speaker_at_most_itself(tmp_path: Path, attach: bool) -> None:
    async with town(tmp_path) as here:
        me, other = await here.program(1, attach), await here.program(1, attach)
        group, _ = await joined(me)
        assert group.me is not None
        await fails(me.send_group(999, b"", 1.0), IllegalState)
        await fails(other.send_group(1, b"", 1.0), IllegalState)
        assert other.hold(1, True), "of a membership of another program's: nothing"
        await group.send(b"fine", LONG_S)
        other._endpoint.post(HOST, Routed.HOLD, b"{}")
        await other.wait_closed()
        await until(lambda: here.programs[1].counters().get("violations") == 1)
        await group.send(b"still", LONG_S)
