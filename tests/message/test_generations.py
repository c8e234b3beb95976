"""A kernel that was restarted is another one: what its last incarnation left in its rings is not heard."""

from popnet.message import codec
from popnet.message.kinds import Ring
from tests.message.ends import KIND, Alone, running, settle, until
from tests.message.links import link_pair


async def test_what_the_last_generation_left_in_its_rings_is_not_heard() -> None:
    got: list[bytes] = []
    old = link_pair("fake")
    ends = Alone(old)
    async with running(ends):
        ends.a.on(KIND, lambda kid, body: got.append(body))
        ends.say(Ring.NORMAL, KIND, body=b"from generation 5")
        await until(lambda: got)
        ends.say(Ring.NORMAL, KIND, body=b"too late")
        new = link_pair("fake")
        ends.a.add_link(2, 6, new.a)  # before it looked at what the old one said
        new.b.send(Ring.NORMAL, codec.payload_of(0, 1, b"from generation 6"), codec.tag_of(KIND))
        await until(lambda: len(got) == 2)
        await settle()
        assert got == [b"from generation 5", b"from generation 6"]
        assert ends.a.generations() == {2: 6}
        ends.a.remove_link(2, "end of test")
        new.close()
    old.close()


async def test_without_the_new_link_it_would_have_been() -> None:
    got: list[bytes] = []
    pair = link_pair("fake")
    ends = Alone(pair)
    async with running(ends):
        ends.a.on(KIND, lambda kid, body: got.append(body))
        ends.say(Ring.NORMAL, KIND, body=b"from generation 5")
        ends.say(Ring.NORMAL, KIND, body=b"not too late")
        await until(lambda: len(got) == 2)
        assert got == [b"from generation 5", b"not too late"]
    pair.close()
