"""Groups across real kernels: programs join, send and leave while a kernel is killed in the middle of its
sends and booted again, and while a program is killed beside them."""

import json
import subprocess
from typing import Any

from tests.live.lab import Lab
from tests.live.test_programs import both, library, words

__all__ = ["library"]

MACHINE = """\
apiVersion: popnet/v1
name: {name}
kernels:
  k1: {{image: full}}
  k2: {{image: full}}
  k3: {{image: full}}
"""

MEMBER = """
import asyncio, json, os, popnet

async def main():
    over, got = asyncio.Event(), {}
    asyncio.get_running_loop().add_reader(0, over.set)
    async with popnet.connect(attach=ATTACH) as me:
        group = me.group("g")
        await group.join(lambda member, body: got.setdefault(member, []).append(int(body)), 20)
        mine, sent = group.me, 0
        while not over.is_set():
            await group.send(b"%d" % sent, 20)
            sent += 1
            await asyncio.sleep(0.005)  # the commands need a core as well
            if sent == 20:
                print(os.getpid(), flush=True)
        await group.leave(20)
    print(json.dumps({"me": mine, "sent": sent, "got": list(got.items())}))

asyncio.run(main())
"""

SCRIPT = """
import popnet

with popnet.connect(attach=ATTACH) as me:
    group, got = me.group("g"), {}
    group.join(20)
    group.send(b"-1")
    while len([n for numbers in got.values() for n in numbers]) < 200:
        member, body = group.recv(20)
        got.setdefault(member, []).append(int(body))
    mine = group.me
    group.leave(20)
    for member, numbers in got.items():
        assert numbers == list(range(numbers[0], numbers[-1] + 1)), (member, numbers)
    print(sorted({member.kid for member in got}), got[mine])
"""


class Member:
    """A program that is a member of the group, and sends to it until it is told to leave."""

    def __init__(self, lab: Lab, kernel: str, attach: bool) -> None:
        self._process = lab.start(*words(kernel, MEMBER, attach), stdin=subprocess.PIPE)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # it is in, and in the middle of its sends
        assert line, self._process.communicate()[1].decode()
        self.pid = int(line)

    def leave(self) -> tuple[tuple[int, ...], int, dict[tuple[int, ...], list[int]]]:
        """Who it was, how much it sent, and what it got of whom."""
        out, errors = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, errors.decode()
        report: dict[str, Any] = json.loads(out)
        return tuple(report["me"]), report["sent"], {tuple(who): numbers for who, numbers in report["got"]}

    def end(self) -> None:
        self._process.communicate(timeout=60)


@both
def test_members_get_everything_once_in_order_while_kernels_and_programs_are_killed(
    lab: Lab, attach: bool
) -> None:
    lab.up(MACHINE)
    first, beside, dies, third = [Member(lab, kernel, attach) for kernel in ("k1", "k1", "k2", "k3")]
    lab.popnet("kill", "k2")
    dies.end()
    lab.popnet("boot", "k2")
    back = Member(lab, "k2", attach)
    lab.exec("k1", "kill", "-9", str(beside.pid))
    beside.end()
    kids, own = lab.popnet(*words("k3", SCRIPT, attach)).stdout.strip().rsplit(" ", 1)
    assert {1, 2, 3} <= set(json.loads(kids)), "a script of the blocking flavour, between them"
    assert own == "[-1]"
    reports = [member.leave() for member in (third, back, first)]
    for me, _, got in reports:
        assert me in got, "the own as well"
        for who, numbers in got.items():
            assert numbers == list(range(numbers[0], numbers[-1] + 1)), (me, who)
    (of_third, sent_third, got_third), (of_back, sent_back, got_back), (of_first, sent_first, got_first) = (
        reports
    )
    assert {(who[0], who[1]) for who in got_first} == {(1, 1), (2, 1), (2, 2), (3, 1)}
    assert len([who for who in got_first if who[0] == 1]) == 2, "two programs of one kernel are two members"
    for sender, sent, got in (
        (of_third, sent_third, got_first),
        (of_back, sent_back, got_first),
        (of_first, sent_first, got_first),
    ):
        assert got[sender] == list(range(sent)), "it was there from the first to the last"
    assert got_back[of_third][-1] == sent_third - 1, "the last before it left"
    assert of_back[:2] == (2, 2)
    assert of_first in got_third
