"""Boot parameters: what is written is what is read back, quoting and Linux's rules included."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.machine import parameters as table
from popnet.machine.cmdline import BootParameters, compose, parse
from popnet.machine.devices import Device, PciFlag
from popnet.machine.memory import MapEntry, Range

NAMES = st.text("abcxyz_.", min_size=1, max_size=8).filter(lambda name: name not in ("mem", "init"))
VALUES = st.text("ab =-.,/'\\é", max_size=8)
WORDS = st.text("abc -.'é", min_size=1, max_size=8).filter(lambda word: word != "--")
PARAMETERS = st.builds(
    BootParameters,
    cpus=st.none() | st.sets(st.integers(0, 100), min_size=1).map(lambda cpus: tuple(sorted(cpus))),
    memory_bytes=st.none() | st.integers(0, 1 << 45),
    memmap=st.lists(
        st.builds(
            MapEntry,
            st.tuples(st.integers(0, 1 << 40), st.integers(1, 1 << 40)).map(
                lambda r: Range(r[0], r[0] + r[1])
            ),
            st.booleans(),
        ),
        max_size=3,
    ).map(tuple),
    devices=st.lists(
        st.builds(Device, st.sampled_from(["fuse", "net/tun", "loop0"]), st.booleans()), max_size=3
    ).map(tuple),
    pci_flags=st.lists(st.builds(PciFlag, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)), max_size=3).map(
        tuple
    ),
    ttys=st.none() | st.integers(1, 16),
    hostname=st.none() | st.sampled_from(["k1", "a.b", "x-1"]),
    address=st.none() | st.ip_addresses(v=4).map(str),
    quiet=st.booleans(),
    debug=st.booleans(),
    loglevel=st.none() | st.integers(0, 8),
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
        "present_mask=1-2 mem=4608M memmap=512M@4G,1M$4G devices=loop0,fuse:b pci_dev_flags=0x8086:0x10c9:b "
        "vty=2 hostname=k1 ip=10.1.2.2 quiet debug loglevel=7 init=/bin/sh hue=blue -- -l"
    )
    parameters = parse(text)
    assert parameters == BootParameters(
        cpus=(1, 2),
        memory_bytes=4608 << 20,
        memmap=(
            MapEntry(Range(4 << 30, (4 << 30) + (512 << 20))),
            MapEntry(Range(4 << 30, (4 << 30) + (1 << 20)), reserved=True),
        ),
        devices=(Device("loop0"), Device("fuse", blocked=True)),
        pci_flags=(PciFlag(0x8086, 0x10C9),),
        ttys=2,
        hostname="k1",
        address="10.1.2.2",
        quiet=True,
        debug=True,
        loglevel=7,
        init="/bin/sh",
        rest=(("hue", "blue"),),
        arguments=("-l",),
    )
    assert compose(parameters) == text


def test_every_parameter_of_the_table_reads_its_own_example() -> None:
    fields = {parameter.field for parameter in table.PARAMETERS}
    assert fields == set(BootParameters.__dataclass_fields__) - {"rest", "arguments"}
    for parameter in table.PARAMETERS:
        assert compose(parse(parameter.example)) == parameter.example


def test_a_command_line_of_popcorn_is_read() -> None:
    parameters = parse(
        "earlyprintk=ttyS0,115200 console=ttyS0,115200 acpi_irq_nobalance no_ipi_broadcast "
        "lapic_timer=1000000 pci_dev_flags=0x8086:0x10c9:b,0x102b:0x0532:b mklinux debug "
        "vty_offset=0x1ffc000000 present_mask=3 memmap=2048M@6144M memmap=6128M$16M mem=8192M"
    )
    assert parameters.cpus == (3,)
    assert [str(entry) for entry in parameters.memmap] == ["2G@6G", "6128M$16M"]
    assert parameters.memory_bytes == 8 << 30
    assert (parameters.init_environment, parameters.init_arguments) == ({}, ()), "all are the kernel's own"
    assert {name for name, _ in parameters.rest} <= set(table.HARDWARE)


@pytest.mark.parametrize(
    ("text", "level"),
    [("", 7), ("quiet", 4), ("debug", 8), ("quiet debug", 8), ("quiet loglevel=6", 6), ("loglevel=0", 0)],
)
def test_what_reaches_the_console(text: str, level: int) -> None:
    assert parse(text).console_level == level


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
        ("loglevel=9", "loglevel=: got '9'; allowed: 0 to 8"),
        ("present_mask=2-1", "runs backwards"),
        ("init=sh", "init=: got 'sh'; allowed: the absolute path"),
        ("hostname=a_b", "hostname=: got 'a_b'"),
        ("ip=1.2.3", "ip=: got '1.2.3'"),
        ("memmap=1G", "memmap=: got '1G'; allowed: SIZE@START"),
        ("memmap=0@1G", "memmap=: got '0@1G', which is no range"),
        ("memmap=1G#1G", "memmap=: got '1G#1G'"),
        ("devices=a:c", "devices=: got 'a:c'; allowed: names below /dev"),
        ("pci_dev_flags=8086:10c9", "pci_dev_flags=: got '8086:10c9'; allowed: VENDOR:DEVICE:b"),
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
