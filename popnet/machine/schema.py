"""The shape of machine files and image manifests: keys, types, ranges; and the JSON Schema that editors read.

The project's one door to pydantic. A section is checked by `checked`, which never raises: it returns every
problem, and the section without its wrong keys, so that what does not hang on them can be checked as well.
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema

from popnet.core.addresses import DEFAULT_SUBNET, DEFAULT_SUBNET6
from popnet.core.limits import CPUS_MAX, KERNELS_MAX, MEMORY_MIN, MTU_MAX, MTU_MIN, TTYS_MAX
from popnet.machine import names
from popnet.machine.devices import DEVICES_ALLOWED, Device, parse_devices
from popnet.machine.faults import DIRECTIONS, FLAPS_MAX
from popnet.machine.gatewayspec import KEYS_ALLOWED, LISTEN_ALLOWED, check_source
from popnet.machine.image import FILES, KINDS, ROOTS
from popnet.machine.impairment import (
    DISTRIBUTIONS,
    DURATION_MAX_NS,
    LOSS_ALLOWED,
    SEED_MAX,
    Impairment,
    Loss,
    parse_loss,
)
from popnet.machine.memory import MEMMAP_ALLOWED, MapEntry, parse_memmap, union
from popnet.machine.memory import Memory as MemoryMap
from popnet.machine.problems import Path, Problem, shown, suggestion
from popnet.machine.restart import POLICIES
from popnet.machine.units import (
    CHANCE_ALLOWED,
    CPUS_ALLOWED,
    DURATION_ALLOWED,
    RATE_ALLOWED,
    SIZE_ALLOWED,
    format_size,
    parse_chance,
    parse_cpus,
    parse_duration,
    parse_rate,
    parse_size,
)

NetworkType = TypeVar("NetworkType", IPv4Network, IPv6Network)
SectionType = TypeVar("SectionType", bound="Section")

API_VERSION: Final = "popnet/v1"
CHECK_STATES: Final = ("offline", "loaded", "online", "failed")
"""States that a check can wait for; the others are on the way to one of these."""

AUTO: Final = "auto"

_PRIVATE: Final = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
_UNIQUE_LOCAL: Final = IPv6Network("fc00::/7")


def _text(check: Callable[[str], Any], allowed: str) -> PlainValidator:
    def validate(value: object) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"got {shown(value)}; allowed: {allowed}")
        return check(value)

    return PlainValidator(validate)


def _whole(minimum: int, maximum: int) -> PlainValidator:
    def validate(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise ValueError(f"got {shown(value)}; allowed: a whole number from {minimum} to {maximum}")
        return value

    return PlainValidator(validate)


def _whole_schema(minimum: int, maximum: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "integer", "minimum": minimum, "maximum": maximum})


def _one_of(*allowed: str) -> PlainValidator:
    def validate(value: object) -> str:
        if value not in allowed or not isinstance(value, str):
            raise ValueError(f"got {shown(value)}{suggestion(str(value), allowed)}")
        return value

    return PlainValidator(validate)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"got {shown(value)}; allowed: true or false")
    return value


def _cpus(value: object) -> tuple[int, ...] | None:
    if value == AUTO:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"got {shown(value)}; allowed: {AUTO} or {CPUS_ALLOWED}")
    return parse_cpus(str(value))


def _memory(value: object) -> int | None:
    if value == AUTO:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"got {shown(value)}; allowed: {AUTO} or {SIZE_ALLOWED}")
    size_bytes = parse_size(str(value))
    if size_bytes < MEMORY_MIN:
        unit = f"; did you mean '{value}M'?" if str(value).isdecimal() else ""
        raise ValueError(
            f"got {shown(value)}, {size_bytes} bytes; allowed: at least {format_size(MEMORY_MIN)}{unit}"
        )
    return size_bytes


def _subnet(text: str) -> IPv4Network:
    network = _network(IPv4Network, text, DEFAULT_SUBNET)
    if not any(network.subnet_of(private) for private in _PRIVATE):
        raise ValueError(f"got {text!r}; allowed: a private network, within {', '.join(map(str, _PRIVATE))}")
    return network


def _subnet6(text: str) -> IPv6Network:
    network = _network(IPv6Network, text, DEFAULT_SUBNET6)
    if not network.subnet_of(_UNIQUE_LOCAL):
        raise ValueError(f"got {text!r}; allowed: a unique local network, within {_UNIQUE_LOCAL}")
    return network


def _network(kind: type[NetworkType], text: str, example: NetworkType) -> NetworkType:
    try:
        loose = kind(text, strict=False)
    except ValueError:
        loose = None
    if loose is None or "/" not in text:
        raise ValueError(f"got {text!r}; allowed: a network such as {example}")
    if kind(text.partition("/")[0]).network_address != loose.network_address:
        raise ValueError(f"got {text!r}, which is not a network's own address; did you mean '{loose}'?")
    return loose


def _variable_value(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"got {shown(value)}; allowed: a text; put it in quotes")
    if "\0" in str(value):
        raise ValueError("a NUL character cannot stand in an environment")
    return str(value)


def _words(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise ValueError(f"got {shown(value)}; allowed: a list of names such as [busybox]")
    return tuple(value)


def _services(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"got {shown(value)}; allowed: a list of services such as [echo, store]")
    return tuple(map(names.service, value))


def _devices(value: object) -> tuple[Device, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"got {shown(value)}; allowed: a list of {DEVICES_ALLOWED}")
    return tuple(device for word in value for device in parse_devices(word))


def _address(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except ValueError:
        raise ValueError(f"got {text!r}; allowed: an IPv4 address such as 10.1.2.9") from None


def _groups(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"got {shown(value)}; allowed: a list of groups such as [workers, clock]")
    return tuple(map(names.group, value))


def _key_sources(value: object) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
        raise ValueError(f"got {shown(value)}; allowed: {KEYS_ALLOWED}, or a list of these")
    return tuple(map(check_source, listed))


_SCALAR: Final = ["string", "integer"]
Cpus = Annotated[
    tuple[int, ...] | None,
    PlainValidator(_cpus),
    WithJsonSchema(
        {"type": _SCALAR, "pattern": r"^(auto|0[xX][0-9a-fA-F]+|[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)$"}
    ),
]
Memory = Annotated[
    int | None,
    PlainValidator(_memory),
    WithJsonSchema({"type": _SCALAR, "pattern": "^(auto|[0-9]+([KMGTkmgt](iB)?)?)$"}),
]
Memmap = Annotated[
    tuple[MapEntry, ...],
    _text(parse_memmap, MEMMAP_ALLOWED),
    WithJsonSchema(
        {"type": "string", "pattern": "^[0-9a-zA-Z]+[@$][0-9a-zA-Z]+(,[0-9a-zA-Z]+[@$][0-9a-zA-Z]+)*$"}
    ),
]
Devices = Annotated[
    tuple[Device, ...],
    PlainValidator(_devices),
    WithJsonSchema({"type": "array", "items": {"type": "string", "minLength": 1}}),
]
Address = Annotated[
    str | None, _text(_address, "an IPv4 address such as 10.1.2.9"), WithJsonSchema({"type": "string"})
]
MtuDefault = Annotated[int, _whole(MTU_MIN, MTU_MAX), _whole_schema(MTU_MIN, MTU_MAX)]
Mtu = Annotated[int | None, _whole(MTU_MIN, MTU_MAX), _whole_schema(MTU_MIN, MTU_MAX)]
TtysDefault = Annotated[int, _whole(1, TTYS_MAX), _whole_schema(1, TTYS_MAX)]
Ttys = Annotated[int | None, _whole(1, TTYS_MAX), _whole_schema(1, TTYS_MAX)]
Kid = Annotated[int | None, _whole(0, KERNELS_MAX - 1), _whole_schema(0, KERNELS_MAX - 1)]
Boolean = Annotated[bool, PlainValidator(_boolean), WithJsonSchema({"type": "boolean"})]
BooleanOrDefault = Annotated[bool | None, PlainValidator(_boolean), WithJsonSchema({"type": "boolean"})]
Name = Annotated[
    str | None,
    _text(names.machine_name, "a name of a-z, 0-9 and -"),
    WithJsonSchema({"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$"}),
]
Word = Annotated[str, _text(str, "a name"), WithJsonSchema({"type": "string"})]
Hostname = Annotated[str | None, _text(names.hostname, "a host name"), WithJsonSchema({"type": "string"})]
Program = Annotated[
    str | None,
    _text(names.program, "the absolute path of a program"),
    WithJsonSchema({"type": "string", "pattern": "^/"}),
]
Append = Annotated[
    str,
    _text(str, 'boot parameters in one text, such as "quiet foo=1"'),
    WithJsonSchema({"type": "string"}),
]
Subnet = Annotated[
    IPv4Network, _text(_subnet, f"a network such as {DEFAULT_SUBNET}"), WithJsonSchema({"type": "string"})
]
Subnet6 = Annotated[
    IPv6Network, _text(_subnet6, f"a network such as {DEFAULT_SUBNET6}"), WithJsonSchema({"type": "string"})
]
Services = Annotated[
    tuple[str, ...] | None,
    PlainValidator(_services),
    WithJsonSchema({"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 64}}),
]
Groups = Annotated[
    tuple[str, ...] | None,
    PlainValidator(_groups),
    WithJsonSchema({"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 64}}),
]
Listen = Annotated[str | None, _text(str, LISTEN_ALLOWED), WithJsonSchema({"type": "string"})]
KeySources = Annotated[
    tuple[str, ...],
    PlainValidator(_key_sources),
    WithJsonSchema({"type": ["string", "array"], "items": {"type": "string", "minLength": 1}}),
]
VariableName = Annotated[str, _text(names.variable, "a name"), WithJsonSchema({"type": "string"})]
VariableValue = Annotated[str, PlainValidator(_variable_value), WithJsonSchema({"type": _SCALAR})]
ApiVersion = Annotated[str | None, _one_of(API_VERSION), WithJsonSchema({"const": API_VERSION})]


class Section(BaseModel):
    """A mapping with a fixed set of keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=False, arbitrary_types_allowed=True
    )


class MachineSection(Section):
    """What all kernels of the machine share."""

    cpus: Cpus = Field(
        default=None, description="CPUs of the host that the machine may use; auto: all this process may use."
    )
    memory: Memory = Field(
        default=None,
        description="Most memory that the kernels may be promised together; auto: what the host has.",
    )
    mtu: MtuDefault = Field(
        default=1500, description="MTU of every NIC, in bytes. Below 1280 there is no IPv6."
    )
    subnet: Subnet = Field(
        default=DEFAULT_SUBNET,
        description="IPv4 network of the kernels; the address of a kernel is number kid + 1 of it.",
    )
    subnet6: Subnet6 = Field(default=DEFAULT_SUBNET6, description="IPv6 network of the kernels, likewise.")
    overcommit: Boolean = Field(
        default=False,
        description="Let kernels list the same CPU, and be promised more memory together than there is.",
    )


class KernelSection(Section):
    """One kernel; every key may be left out."""

    image: Word = Field(default="full", description="What it runs: a directory with an image.yaml.")
    cpus: Cpus = Field(
        default=None,
        description="CPUs it may run on, such as 0-1,3; auto: a fair share of those no kernel lists.",
    )
    memory: Memory = Field(
        default=None, description="Most memory it may use, such as 512M or 2G; auto: no limit."
    )
    memmap: Memmap = Field(
        default=(),
        description="The memory it has by address, such as 2G@4G; then 'memory' is left out.",
        json_schema_extra={"default": None},
    )
    devices: Devices = Field(
        default=(),
        description="Devices of the host in its /dev, such as [loop0, 'fuse:b']; :b takes one away.",
        json_schema_extra={"default": None},
    )
    ttys: Ttys = Field(default=None, description="How many terminals it has; the image knows the default.")
    mtu: Mtu = Field(default=None, description="MTU of its NIC, in bytes; the machine's by default.")
    offload: Boolean = Field(
        default=True,
        description="Large segments and unfinished checksums at its NIC; false: packets as on a wire.",
    )
    hostname: Hostname = Field(default=None, description="What uname -n says in it; its name by default.")
    init: Program = Field(default=None, description="Absolute path of its init; the image's by default.")
    append: Append = Field(
        default="", description="More boot parameters, in Linux style: quiet loglevel=7 name=value."
    )
    env: dict[VariableName, VariableValue] = Field(default={}, description="Environment of its init.")
    ssh: BooleanOrDefault = Field(default=None, description="Run sshd; the image knows the default.")
    services: Services = Field(
        default=None,
        description="The only services its programs may open or offer; by default all but the kernels'.",
    )
    restart: Annotated[str, _one_of(*POLICIES), WithJsonSchema({"enum": list(POLICIES)})] = Field(
        default="never", description="Whether it boots again when it ended by itself."
    )
    ip: Address = Field(default=None, description="The address of its NIC; by default made of the kid.")
    groups: Groups = Field(
        default=None,
        description="The only groups its programs may join; by default all, or none if there is `services`.",
    )
    kid: Kid = Field(
        default=None, description="Its number, of which its addresses are made; by default the next free one."
    )


class GatewaySection(Section):
    """The ssh server that the machine starts; the user name picks the kernel."""

    listen: Listen = Field(
        default=None, description="Where it listens: 127.0.0.1:PORT, [::1]:PORT, or a unix socket's path."
    )
    authorized_keys: KeySources = Field(
        default=(),
        description="Whose keys let in: files, directories with NAME.pub, or $VARIABLE.",
        json_schema_extra={"default": None},
    )
    public: Boolean = Field(
        default=False, description="Listen also where others than this host reach it, such as 0.0.0.0:PORT."
    )


class FileSection(Section):
    """The top of a machine file; its parts are checked one by one."""

    api_version: ApiVersion = Field(
        default=None, alias="apiVersion", description="The version of this format."
    )
    name: Name = Field(default=None, description="The machine's name in every command.")
    machine: Any = None
    kernels: Any = None
    links: Any = None
    nics: Any = None
    faults: Any = None
    gateway: Any = None
    checks: Any = None


def _text_or_number(parse: Callable[[str], Any], allowed: str) -> PlainValidator:
    """For texts that may look like numbers, so that an error can say what is missing."""

    def validate(value: object) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(f"got {shown(value)}; allowed: {allowed}")
        return parse(str(value))

    return PlainValidator(validate)


def _short(text: str) -> int:
    duration_ns = parse_duration(text)
    if duration_ns > DURATION_MAX_NS:
        raise ValueError(f"got {text!r}; allowed: at most 1h")
    return duration_ns


def _some(text: str) -> int:
    duration_ns = _short(text)
    if duration_ns == 0:
        raise ValueError(f"got {text!r}; allowed: {DURATION_ALLOWED}, not zero")
    return duration_ns


def _limit(text: str) -> int:
    size_bytes = parse_size(text)
    if not 1 <= size_bytes <= 1 << 40:
        raise ValueError(f"got {text!r}; allowed: {SIZE_ALLOWED}, not zero")
    return size_bytes


def _kernels(value: object) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(name, str) for name in value):
        raise ValueError(f"got {shown(value)}; allowed: two kernels, such as [k1, k2]")
    return value[0], value[1]


_TEXT: Final = WithJsonSchema({"type": "string"})
_DURATION_SCHEMA: Final = WithJsonSchema(
    {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h)$"}
)
_CHANCE_SCHEMA: Final = WithJsonSchema({"type": "string", "pattern": r"^[0-9]{1,3}(\.[0-9]+)?%$"})
DelayTime = Annotated[int, _text_or_number(_short, DURATION_ALLOWED), _DURATION_SCHEMA]
SomeTime = Annotated[int, _text_or_number(_some, DURATION_ALLOWED), _DURATION_SCHEMA]
Time = Annotated[int | None, _text_or_number(_short, DURATION_ALLOWED), _DURATION_SCHEMA]
Chance = Annotated[float, _text_or_number(parse_chance, CHANCE_ALLOWED), _CHANCE_SCHEMA]
LossText = Annotated[Loss, _text_or_number(parse_loss, LOSS_ALLOWED), _TEXT]
Rate = Annotated[int | None, _text_or_number(parse_rate, RATE_ALLOWED), _TEXT]
Limit = Annotated[
    int | None, _text_or_number(_limit, SIZE_ALLOWED), WithJsonSchema({"type": _SCALAR, "pattern": "^[0-9]"})
]
Distribution = Annotated[str, _one_of(*DISTRIBUTIONS), WithJsonSchema({"enum": list(DISTRIBUTIONS)})]
Direction = Annotated[str, _one_of(*DIRECTIONS), WithJsonSchema({"enum": list(DIRECTIONS)})]
Match = Annotated[str, _text(str, "a filter such as 'tcp port 80'"), _TEXT]
Seed = Annotated[int | None, _whole(0, SEED_MAX), _whole_schema(0, SEED_MAX)]
Pair = Annotated[
    tuple[str, str] | None,
    PlainValidator(_kernels),
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}),
]
KernelName = Annotated[str | None, _text(str, "the name of a kernel"), _TEXT]


class ImpairSection(Section):
    """What a wire does to frames; the words are netem's."""

    delay: DelayTime = Field(default=0, description="Each frame is late by this: 5ms.")
    jitter: DelayTime = Field(default=0, description="And by this times a number of the distribution.")
    distribution: Distribution = Field(default="uniform", description="Of the jitter.")
    ordered: Boolean = Field(default=False, description="Jitter lets no frame overtake another.")
    loss: LossText = Field(default=Loss(), description="1%; or bursts: gemodel P R 1-H 1-K.")
    duplicate: Chance = Field(default=0.0, description="Chance that a frame comes twice.")
    corrupt: Chance = Field(default=0.0, description="Chance that one bit of a frame is turned.")
    reorder: Chance = Field(default=0.0, description="Chance that a frame does not wait for the delay.")
    rate: Rate = Field(default=None, description="Bits a second: 10mbit.")
    limit: Limit = Field(default=None, description="Bytes that may wait for the rate; more are dropped.")
    match: Match = Field(default="", description="Only frames that match, in tcpdump's language.")
    seed: Seed = Field(default=None, description="Of all chance: the same seed, the same fates.")

    def impairment(self) -> Impairment:
        return Impairment(
            delay_ns=self.delay,
            jitter_ns=self.jitter,
            distribution=self.distribution,
            ordered=self.ordered,
            loss=self.loss,
            duplicate=self.duplicate,
            corrupt=self.corrupt,
            reorder=self.reorder,
            rate_bps=self.rate,
            limit_bytes=self.limit,
            match=self.match.strip(),
            seed=self.seed,
        )


class LinkSection(ImpairSection):
    """An impaired link."""

    link: Pair = Field(default=None, description="The two kernels.")
    direction: Direction = Field(default="both", description="out: from the first to the second only.")


class NicSection(ImpairSection):
    """An impaired NIC: all of a kernel's traffic."""

    nic: KernelName = Field(default=None, description="The kernel.")
    direction: Direction = Field(default="both", description="out: only what leaves the kernel.")


class FlapSection(Section):
    """Down and up again, several times."""

    down: SomeTime = Field(default=10**9, description="How long it is down: 1s.")
    up: SomeTime = Field(default=10**9, description="How long it is up.")
    times: Annotated[int, _whole(1, FLAPS_MAX), _whole_schema(1, FLAPS_MAX)] = 1


def _shape(section: type[Section]) -> WithJsonSchema:
    return WithJsonSchema(section.model_json_schema(by_alias=True))


class FaultSection(Section):
    """One fault of the plan: when, where, and one of down, clear, impair, flap."""

    at: Time = Field(default=None, description="When, after the plan's start: 5s.")
    link: Pair = Field(default=None, description="The link between these two kernels; or:")
    nic: KernelName = Field(default=None, description="The NIC of this kernel: down isolates it.")
    direction: Direction = Field(
        default="both", description="out: from the first kernel only: a one-way cut."
    )
    down: BooleanOrDefault = Field(default=None, description="true: nothing passes; false: up again.")
    clear: BooleanOrDefault = Field(default=None, description="true: no impairments any more.")
    impair: Annotated[Any, _shape(ImpairSection)] = Field(default=None, description="Impairments to set.")
    flap: Annotated[Any, _shape(FlapSection)] = Field(default=None, description="Down and up, several times.")


def _check_kernels(value: object) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"got {shown(value)}; allowed: the name of a kernel, a list of names, or {CHECK_ALL!r}"
        )
    return tuple(names)


def _check_command(value: object) -> tuple[str, ...]:
    if isinstance(value, str) and value.strip():
        return ("sh", "-c", value)
    if not isinstance(value, list) or not value or not all(isinstance(word, str) and word for word in value):
        raise ValueError(f"got {shown(value)}; allowed: a line for the shell, or a list of words")
    return tuple(value)


def _pattern(text: str) -> str:
    try:
        re.compile(text.replace("{kernel}", "kernel"))
    except re.error as error:
        raise ValueError(f"got {text!r}: no regular expression: {error}") from None
    return text


def _nonempty(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError(f"got {text!r}; allowed: a few words on one line")
    return text


CHECK_ALL: Final = "all"
_LIST_OR_TEXT: Final = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}
CheckKernels = Annotated[
    tuple[str, ...] | None, PlainValidator(_check_kernels), WithJsonSchema(_LIST_OR_TEXT)
]
CheckCommand = Annotated[
    tuple[str, ...] | None, PlainValidator(_check_command), WithJsonSchema(_LIST_OR_TEXT)
]
CheckName = Annotated[str | None, _text(_nonempty, "a few words"), WithJsonSchema({"type": "string"})]
Pattern = Annotated[str, _text(_pattern, "a regular expression"), WithJsonSchema({"type": "string"})]
CheckStatus = Annotated[int, _whole(0, 255), _whole_schema(0, 255)]
CheckState = Annotated[str | None, _one_of(*CHECK_STATES), WithJsonSchema({"enum": list(CHECK_STATES)})]


class CheckSection(Section):
    """One self-check: one of run, reach, state."""

    name: CheckName = Field(default=None, description="What must be true, in a few words.")
    kernel: CheckKernels = Field(
        default=None, description="Whom it concerns: a kernel, a list of them, or all (of reach, state: all)."
    )
    run: CheckCommand = Field(
        default=None, description="A command: a line for the shell, or a list of words."
    )
    status: CheckStatus = Field(default=0, description="The exit status that the command must have.")
    stdout: Pattern = Field(
        default="", description="A regular expression found in what it prints; {kernel}: the kernel's name."
    )
    stderr: Pattern = Field(default="", description="The same of its errors.")
    reach: CheckKernels = Field(default=None, description="Kernels that must answer a ping.")
    state: CheckState = Field(default=None, description="The state to be in.")
    timeout: SomeTime = Field(default=10 * 10**9, description="How long it may take: 10s.")


class MachineFile(FileSection):
    """A popnet machine: which kernels exist."""

    machine: MachineSection | None = Field(default=None, description="What all kernels share.")
    kernels: dict[str, KernelSection | None] = Field(
        default={}, description="The kernels by name. 'primary' is kernel 0; it is there even if left out."
    )
    links: list[LinkSection] = Field(default=[], description="Impaired links.")
    nics: list[NicSection] = Field(default=[], description="Impaired NICs.")
    faults: list[FaultSection] = Field(default=[], description="What goes wrong, and when.")
    gateway: GatewaySection | None = Field(
        default=None, description="The ssh server that the machine starts; the user name picks the kernel."
    )
    checks: list[CheckSection] = Field(default=[], description="What `popnet check` looks at.")


def _file_path(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError(f"got {text!r}; allowed: a path such as rootfs.tar.gz")
    return text


def _digest(text: str) -> str:
    if len(text) != 64 or set(text.lower()) - set("0123456789abcdef"):
        raise ValueError(f"got {text!r}; allowed: 64 hexadecimal digits, as sha256sum prints them")
    return text.lower()


class ImageSection(Section):
    """A popnet image: what a kernel runs."""

    api_version: ApiVersion = Field(
        default=None, alias="apiVersion", description="The version of this format."
    )
    name: Name = Field(default=None, description="The directory's name again.")
    kind: Annotated[str, _one_of(*KINDS), WithJsonSchema({"enum": list(KINDS)})] = Field(
        default="native", description="native: the host's own Linux."
    )
    root: Annotated[str, _one_of(*ROOTS), WithJsonSchema({"enum": list(ROOTS)})] = Field(
        default="host-overlay", description="What its root file system is made of."
    )
    source: Annotated[str | None, _text(_file_path, "a path such as rootfs.tar.gz"), _TEXT] = Field(
        default=None, description="The file or directory of the root, from the manifest's own directory."
    )
    sha256: Annotated[
        str | None,
        _text(_digest, "64 hexadecimal digits, as sha256sum prints them"),
        WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}),
    ] = Field(default=None, description="What the SHA-256 of that file must be.")
    init: Program = Field(default=None, description="Absolute path of its init; popnet's own by default.")
    ssh: Boolean = Field(default=False, description="Whether it can run sshd, and does by default.")
    ttys: TtysDefault = Field(default=1, description="How many terminals its kernels have by default.")
    programs: Annotated[
        tuple[str, ...],
        PlainValidator(_words),
        WithJsonSchema({"type": "array", "items": {"type": "string", "minLength": 1}}),
    ] = Field(default=(), description="For a ramdisk: programs of the host to put into it.")
    append: Append = Field(default="", description="Boot parameters of every kernel that runs it.")
    isolated: Boolean = Field(
        default=False, description="Its kernels have their cores alone, and may use SCHED_FIFO."
    )
    files: Annotated[str, _one_of(*FILES), WithJsonSchema({"enum": list(FILES)})] = Field(
        default="", description="serve: /io is for other kernels; use: /io is that of an io kernel."
    )
    description: Word = Field(default="", description="One line for people.")
    origin: Word = Field(default="", description="Where it came from, for people.")


def _memory_map(value: object) -> MemoryMap:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"got {shown(value)}; allowed: a list of ranges such as [3G@0, 21G@4G]")
    entries = [entry for word in value for entry in parse_memmap(word)]
    if any(entry.reserved for entry in entries):
        raise ValueError("a node has SIZE@START only")
    return union(entry.range for entry in entries)


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"got {shown(value)}; allowed: {SIZE_ALLOWED}")
    return parse_size(str(value))


_Number = Annotated[int, _whole(0, CPUS_MAX)]
_Listed = Annotated[tuple[int, ...] | None, PlainValidator(_cpus)]
_Size = Annotated[int, PlainValidator(_size)]


class TopologySection(Section):
    """The top of a topology; its parts are checked one by one."""

    api_version: ApiVersion = Field(default=None, alias="apiVersion")
    kind: Annotated[str, _one_of("Topology")] = "Topology"
    memory: _Size = 0
    cores: Any = None
    nodes: Any = None
    caches: Any = None


class CoreSection(Section):
    """A core of a topology: the CPUs that are its hardware threads."""

    cpus: _Listed = None
    package: _Number = 0
    node: _Number = 0


class NodeSection(Section):
    """A NUMA node of a topology."""

    node: _Number = 0
    memory: Annotated[MemoryMap, PlainValidator(_memory_map)] = ()


class CacheSection(Section):
    """A cache of a topology, and the CPUs that share it."""

    level: _Number = 0
    type: Word = "Unified"
    size: _Size = 0
    cpus: _Listed = None


def keys_of(section: type[Section]) -> list[str]:
    """The keys that *section* may have, in their order."""
    return [field.alias or name for name, field in section.model_fields.items()]


def checked(section: type[SectionType], data: object, path: Path) -> tuple[SectionType, list[Problem]]:
    """*data*, which the file holds at *path*, as a *section* without its wrong keys; and what is wrong."""
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        keys = ", ".join(keys_of(section))
        return section(), [Problem(path, f"got {shown(data)}; allowed: a mapping with the keys {keys}")]
    try:
        return section.model_validate(data), []
    except ValidationError as error:
        problems = []
        wrong: set[str] = set()
        for detail in error.errors(include_url=False):
            location = tuple(map(str, detail["loc"]))
            wrong.add(location[0])
            problems.append(_problem(section, path, location, detail["type"], detail["input"], detail))
        good = {key: value for key, value in data.items() if key not in wrong}
        return section.model_validate(good), problems


def _problem(
    section: type[Section], path: Path, location: Path, kind: str, value: object, detail: Mapping[str, Any]
) -> Problem:
    at_key = location[-1] == "[key]"
    here = (*path, *(location[:-1] if at_key else location))
    if kind == "extra_forbidden":
        return Problem(here, f"unknown key{suggestion(location[0], keys_of(section))}", at_key=True)
    if kind == "value_error":
        return Problem(here, str(detail["ctx"]["error"]), at_key)
    if kind == "dict_type":
        return Problem(here, f"got {shown(value)}; allowed: a mapping of names to values")
    return Problem(here, f"got {shown(value)}; {detail['msg']}", at_key)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of machine files (draft 2020-12)."""
    schema = MachineFile.model_json_schema(by_alias=True)
    schema["required"] = ["apiVersion", "name", "kernels"]
    _drop_defaults(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def image_schema() -> dict[str, Any]:
    """The JSON Schema of image manifests."""
    schema = ImageSection.model_json_schema(by_alias=True)
    schema["required"] = ["apiVersion"]
    _drop_defaults(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _drop_defaults(schema: Any) -> None:
    """What has no default in the file has none in its schema."""
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        if isinstance(value, dict) and value.get("default", "") is None:
            del value["default"]
        _drop_defaults(value)
