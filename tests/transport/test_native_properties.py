"""The native rings against their model: whatever is done, results, kicks, words and bytes are the same."""

import random
from typing import Any, ClassVar
from unittest import TestCase as UnitTestCase

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from popnet.transport._native import PAYLOAD_MAX, RING_SIZES
from tests.transport.pair import RING_NAMES, End, Pair
from tests.transport.ring_model import RingModel

STARTS = (0, 64, 2**64 - 64, 2**64 - 4096, 2**63 - 64 * 1000, 2**64 - (1 << 20))
"""Positions to start from: the counts wrap at 2^64, and records wrap at the end of the data area."""


def payload(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def sizes(ring: int) -> st.SearchStrategy[int]:
    """Payload sizes around every edge of the format, and any other."""
    top = PAYLOAD_MAX[ring]
    edges = [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 121, top // 2, top - 64, top - 1, top]
    return st.sampled_from(edges) | st.integers(0, top) | st.integers(0, 300)


class RingMachine(RuleBasedStateMachine):
    """One ring of a link, in the direction from end `a` to end `b`."""

    ring: ClassVar[int]

    @initialize(start=st.sampled_from(STARTS))
    def join(self, start: int) -> None:
        self.pair = Pair(start)
        self.producer, self.consumer = self.pair.a, self.pair.b
        self.model = RingModel(RING_SIZES[self.ring], PAYLOAD_MAX[self.ring], start)
        self.kicks = {"producer": 0, "consumer": 0}

    @rule(data=st.data(), tag=st.integers(0, 2**32 - 1), seed=st.integers(0, 100))
    def send(self, data: st.DataObject, tag: int, seed: int) -> None:
        record = payload(data.draw(sizes(self.ring)), seed)
        assert self.producer.link.send(self.ring, record, tag) == bool(self.model.send([(tag, record)]))

    @rule(data=st.data(), seed=st.integers(0, 100))
    def send_many(self, data: st.DataObject, seed: int) -> None:
        lengths = data.draw(st.lists(sizes(self.ring), max_size=20))
        records = [(tag, payload(size, seed + tag)) for tag, size in enumerate(lengths)]
        assert self.producer.link.send_many(self.ring, records) == self.model.send(records)

    @rule(size=st.integers(1, 2000))
    def fill(self, size: int) -> None:
        record = payload(size, size)
        while self.producer.link.send(self.ring, record, size):
            assert self.model.send([(size, record)])
        assert not self.model.has_room(size)

    @rule()
    def receive(self) -> None:
        record = self.consumer.link.receive(self.ring)
        assert ([record] if record else []) == self.model.receive(1)

    @rule(budget=st.integers(-1, 3) | st.integers(0, 20000))
    def receive_many(self, budget: int) -> None:
        assert self.consumer.link.receive_many(self.ring, budget) == self.model.receive(budget)

    @rule()
    def arm(self) -> None:
        assert self.consumer.link.arm(self.ring) == self.model.arm()

    @rule()
    def disarm(self) -> None:
        self.consumer.link.disarm(self.ring)
        self.model.armed_data = 0

    @rule(data=st.data())
    def arm_room(self, data: st.DataObject) -> None:
        size = data.draw(sizes(self.ring))
        assert self.producer.link.arm_room(self.ring, size) == self.model.arm_room(size)

    @rule()
    def disarm_room(self) -> None:
        self.producer.link.disarm_room(self.ring)
        self.model.armed_room = 0

    @precondition(lambda self: hasattr(self, "pair"))
    @invariant()
    def same(self) -> None:
        name, model = RING_NAMES[self.ring], self.model
        ours, theirs = self.producer.window.words(), self.consumer.window.words()
        assert ours[f"produced_{name}"] == model.produced
        assert ours[f"armed_room_{name}"] == model.armed_room
        assert theirs[f"consumed_{name}"] == model.consumed
        assert theirs[f"armed_data_{name}"] == model.armed_data
        assert self._rung("producer", self.producer) == model.producer_bell
        assert self._rung("consumer", self.consumer) == model.consumer_bell
        assert self.producer.ring_bytes(self.ring) == model.data

    def _rung(self, who: str, end: End) -> int:
        self.kicks[who] += end.rung()
        return self.kicks[who]

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        assert self.producer.link.violation is None
        assert self.consumer.link.violation is None
        self.pair.__exit__(None, None, None)


def case_for(index: int) -> type[UnitTestCase]:
    machine: Any = type(f"{RING_NAMES[index].title()}Machine", (RingMachine,), {"ring": index})
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    case: type[UnitTestCase] = machine.TestCase
    return case


TestHigh, TestNormal, TestFrames = (case_for(index) for index in range(3))
