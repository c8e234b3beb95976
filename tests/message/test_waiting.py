"""How an endpoint waits: kicked when armed, never kicked where it polls, and a last look before it sleeps."""

import asyncio

from popnet.message.kinds import Ring

from .ends import KIND, Alone, everywhere, settle, until


def kicks(ends: Alone) -> int:
    """Kicks that the peer sent to kernel 1 for data on its normal ring."""
    return ends.pair.b.counters()["normal_kicks"]


@everywhere
async def test_an_armed_ring_is_kicked_and_a_polled_one_is_not(ends: Alone) -> None:
    heard: list[bytes] = []
    ends.a.on(KIND, lambda kid, body: heard.append(body))
    await settle()  # asleep, and armed
    before = kicks(ends)
    ends.say(Ring.NORMAL, KIND, body=b"armed")
    assert kicks(ends) == before + 1
    await until(lambda: heard == [b"armed"])

    ends.a.poll(2, [Ring.NORMAL])
    ends.say(Ring.NORMAL, KIND, body=b"may kick: it was armed before")
    await until(lambda: len(heard) == 2)
    before = kicks(ends)
    for number in range(10):
        await settle()
        ends.say(Ring.NORMAL, KIND, body=bytes([number]))
        await until(lambda: heard[-1] == bytes([number]))  # noqa: B023
    assert kicks(ends) == before

    ends.a.poll(2, ())
    await settle()
    ends.say(Ring.NORMAL, KIND, body=b"armed again")
    assert kicks(ends) == before + 1
    await until(lambda: heard[-1] == b"armed again")


@everywhere
async def test_the_other_ring_stays_armed(ends: Alone) -> None:
    heard: list[bytes] = []
    ends.a.on(KIND, lambda kid, body: heard.append(body))
    ends.a.poll(2, [Ring.NORMAL])
    await settle()
    ends.say(Ring.HIGH, KIND, body=b"high")
    assert ends.pair.b.counters()["high_kicks"] == 1
    await until(lambda: heard == [b"high"])


@everywhere
async def test_what_a_last_look_finds_needs_no_kick(ends: Alone) -> None:
    heard: list[bytes] = []
    ends.a.on(KIND, lambda kid, body: heard.append(body))
    await settle()
    coming = [b"second", b"third"]

    def look() -> bool:
        if heard and coming:
            ends.say(Ring.NORMAL, KIND, body=coming.pop(0))
            return True
        return False

    ends.a.look = look
    before = kicks(ends)
    ends.say(Ring.NORMAL, KIND, body=b"first")
    await until(lambda: heard == [b"first", b"second", b"third"])
    assert kicks(ends) == before + 1


@everywhere
async def test_without_a_last_look_each_sleep_costs_a_kick(ends: Alone) -> None:
    heard: list[bytes] = []
    ends.a.on(KIND, lambda kid, body: heard.append(body))
    before = kicks(ends)
    for number in range(3):
        await settle()
        ends.say(Ring.NORMAL, KIND, body=bytes([number]))
        await until(lambda: len(heard) == number + 1)  # noqa: B023
    assert kicks(ends) == before + 3


@everywhere
async def test_polling_a_kernel_without_a_link_is_nothing(ends: Alone) -> None:
    ends.a.poll(77, [Ring.NORMAL])
    assert 77 not in ends.a.generations()


async def order_of(ends: Alone, looks: bool) -> list[str]:
    """What happens first after a message: its reader answers, or the endpoint looks for more."""
    came, order = asyncio.Event(), list[str]()
    ends.a.on(KIND, lambda kid, body: came.set())
    ends.a.looks = lambda: looks

    async def read() -> None:
        await came.wait()
        order.append("reader")

    def look() -> bool:
        if came.is_set():
            order.append("look")
        return False

    ends.a.look = look
    reading = asyncio.create_task(read())
    await settle()
    ends.say(Ring.NORMAL, KIND, body=b"x")
    await reading
    await until(lambda: "look" in order)
    return order


@everywhere
async def test_a_reader_has_its_turn_before_a_look_that_waits(ends: Alone) -> None:
    """What we would wait for may be the answer to what the reader has yet to send."""
    assert (await order_of(ends, looks=True))[:2] == ["reader", "look"]


@everywhere
async def test_control_a_look_that_does_not_wait_costs_no_further_turn(ends: Alone) -> None:
    assert (await order_of(ends, looks=False))[:2] == ["look", "reader"]
