"""Boot parameters: what is written is what is read back, quoting and Linux's rules included."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.machine.cmdline import BootParameters, compose, parse

NAMES = st.text("abcxyz_.", min_size=1, max_size=8).filter(lambda name: name not in ("mem", "init"))
VALUES = st.text("ab =-.,/'\\é", max_size=8)
WORDS = st.text("abc -.'é", min_size=1, max_size=8).filter(lambda word: word != "--")
PARAMETERS = st.builds(
    BootParameters,
    cpus=st.none() | st.sets(st.integers(0, 100), min_size=1).map(lambda cpus: tuple(sorted(cpus))),
    memory_bytes=st.none() | st.integers(0, 1 << 45),
    ttys=st.none() | st.integers(1, 16),
    hostname=st.none() | st.sampled_from(["k1", "a.b", "x-1"]),
    address=st.none() | st.ip_addresses(v=4).map(str),
    quiet=st.booleans(),
    loglevel=st.none() | st.integers(0, 7),
    init=st.none() | st.sampled_from(["/bin/sh", "/a b/c=d"]),
    rest=st.lists(st.tuples(NAMES, VALUES) | st.tuples(WORDS, st.none()), max_size=4).map(tuple),
    arguments=st.lists(WORDS | st.just("--"), max_size=3).map(tuple),
)


@given(PARAMETERS)
def test_round_trip(parameters: BootParameters) -> None:
    assert parse(compose(parameters)) == parameters


@given(st.text(' ab="-,019', max_size=40) | st.text(max_size=20))
def test_whatever_can_be_read_can_be_written(text: str) -> None:
    try:
        parameters = parse(text)
    except ValueError:
        return
    assert parse(compose(parameters)) == parameters


def test_every_parameter() -> None:
    text = (
        "present_mask=1-2 mem=512M vty=2 hostname=k1 ip=10.1.2.2 quiet loglevel=7 init=/bin/sh hue=blue -- -l"
    )
    parameters = parse(text)
    assert parameters == BootParameters(
        (1, 2), 512 << 20, 2, "k1", "10.1.2.2", True, 7, "/bin/sh", (("hue", "blue"),), ("-l",)
    )
    assert compose(parameters) == text


def test_unknown_parameters_are_kept_for_init() -> None:
    parameters = parse('single module.x=1 motd="hello there" "spaced name=a b" -- -l "two words"')
    assert parameters.init_environment == {"motd": "hello there", "spaced name": "a b"}
    assert parameters.init_arguments == ("single", "-l", "two words")
    assert compose(parameters) == 'single module.x=1 motd="hello there" "spaced name=a b" -- -l "two words"'


def test_the_last_of_two_counts_and_dashes_are_underscores() -> None:
    assert parse("mem=1G present-mask=1 mem=2G") == BootParameters(cpus=(1,), memory_bytes=2 << 30)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mem=x", "mem=: got 'x'; allowed: a size"),
        ("mem", "mem=: it has no value; write it as in mem=512M"),
        ("mem=", "mem=: it has no value"),
        ("vty=17", "vty=: got '17'; allowed: 1 to 16"),
        ("vty=" + "9" * 5000, "vty=: got"),
        ("quiet=1", "quiet=: got '1'; allowed: no value"),
        ("loglevel=8", "loglevel=: got '8'; allowed: 0 to 7"),
        ("present_mask=2-1", "runs backwards"),
        ("init=sh", "init=: got 'sh'; allowed: the absolute path"),
        ("hostname=a_b", "hostname=: got 'a_b'"),
        ("ip=1.2.3", "ip=: "),
        ("=x", "'=x' has no name"),
        ('a="b', "opened and never closed"),
        ("a=\x07", "cannot stand in a boot parameter"),
    ],
)
def test_wrong_parameters(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "parameters",
    [
        BootParameters(rest=(("a", 'say "x"'),)),
        BootParameters(rest=(("a", "two\nlines"),)),
        BootParameters(rest=(("mem", "1G"),)),
        BootParameters(rest=(("--", None),)),
        BootParameters(arguments=("",)),
        BootParameters(rest=(("a", "x" * 3000),)),
    ],
)
def test_what_cannot_be_written_is_refused(parameters: BootParameters) -> None:
    with pytest.raises(ValueError, match=r"cannot be written|other parameters|allowed: 2048"):
        compose(parameters)


def test_over_keeps_both_and_prefers_its_own() -> None:
    defaults = parse("quiet mem=1G a=1 -- x")
    assert parse("mem=2G b").over(defaults) == parse("quiet mem=2G a=1 b -- x")
