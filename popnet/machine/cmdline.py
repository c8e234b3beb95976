"""Boot parameters: a kernel's command line, in Linux style, with Popcorn's names.

    present_mask=1-2 mem=512M vty=2 hostname=k1 ip=10.1.2.2 quiet loglevel=7 init=/bin/sh colour=blue -- -l

As in Linux, words are split at blanks, double quotes protect blanks (`motd="hello there"`) and cannot be
written themselves, a `-` in a name equals `_`, and of a parameter given twice the last one counts. What is
not known here is kept for init: `name=value` becomes its environment, a bare word its argument, and so does
all after `--`.
"""

from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Address
from typing import Final

from popnet.core.limits import COMMAND_LINE_MAX, TTYS_MAX
from popnet.machine import names
from popnet.machine.units import format_cpus, format_size, parse_cpus, parse_size

_LOGLEVEL_MAX: Final = 7


@dataclass(frozen=True, slots=True)
class BootParameters:
    """A command line, taken apart; None is "not given".

    Attributes:
        cpus: `present_mask=`, the CPUs the kernel may see.
        memory_bytes: `mem=`.
        ttys: `vty=`, how many terminals.
        hostname: `hostname=`.
        address: `ip=`.
        quiet: `quiet`: only errors reach the console.
        loglevel: `loglevel=`, 0 to 7: what reaches the console.
        init: `init=`.
        rest: what else was given, in order, as (name, value); a bare word has no value.
        arguments: what followed `--`.
    """

    cpus: tuple[int, ...] | None = None
    memory_bytes: int | None = None
    ttys: int | None = None
    hostname: str | None = None
    address: str | None = None
    quiet: bool = False
    loglevel: int | None = None
    init: str | None = None
    rest: tuple[tuple[str, str | None], ...] = ()
    arguments: tuple[str, ...] = ()

    @property
    def init_environment(self) -> dict[str, str]:
        """The unknown `name=value` parameters; a name with a dot is a module's, and not passed on."""
        return {name: value for name, value in self.rest if value is not None and "." not in name}

    @property
    def init_arguments(self) -> tuple[str, ...]:
        """The unknown bare words, and what followed `--`."""
        return (*(name for name, value in self.rest if value is None), *self.arguments)

    def over(self, defaults: "BootParameters") -> "BootParameters":
        """Both: of what both give, these count."""
        given = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) not in (None, False)
        }
        given["rest"] = defaults.rest + self.rest
        given["arguments"] = defaults.arguments + self.arguments
        return replace(defaults, **given)


def parse(text: str) -> BootParameters:
    """The parameters in *text*; raises ValueError naming the one that is wrong."""
    words = _split(text)
    arguments: tuple[str, ...] = ()
    if "--" in words:
        end = words.index("--")
        arguments, words = tuple(words[end + 1 :]), words[:end]
    known: dict[str, object] = {}
    rest: list[tuple[str, str | None]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not name:
            raise ValueError(f"{word!r} has no name before its '='")
        try:
            field_and_value = _known(name.replace("-", "_"), value if equals else None)
        except ValueError as error:
            raise ValueError(f"{name}=: {error}") from None
        if field_and_value:
            known[field_and_value[0]] = field_and_value[1]
        else:
            rest.append((name, value if equals else None))
    return replace(BootParameters(rest=tuple(rest), arguments=arguments), **known)  # type: ignore[arg-type]


def compose(parameters: BootParameters) -> str:
    """The command line that `parse` reads back as *parameters*; ValueError if there is none."""
    words: list[str] = []
    if parameters.cpus is not None:
        words.append(f"present_mask={format_cpus(parameters.cpus)}")
    if parameters.memory_bytes is not None:
        words.append(f"mem={format_size(parameters.memory_bytes)}")
    if parameters.ttys is not None:
        words.append(f"vty={parameters.ttys}")
    if parameters.hostname is not None:
        words.append(_word("hostname", parameters.hostname))
    if parameters.address is not None:
        words.append(_word("ip", parameters.address))
    if parameters.quiet:
        words.append("quiet")
    if parameters.loglevel is not None:
        words.append(f"loglevel={parameters.loglevel}")
    if parameters.init is not None:
        words.append(_word("init", parameters.init))
    words.extend(_word(name, value) for name, value in parameters.rest)
    if parameters.arguments:
        words.append("--")
        words.extend(_word(argument, None) for argument in parameters.arguments)
    text = " ".join(words)
    if len(text.encode()) > COMMAND_LINE_MAX:
        raise ValueError(f"{len(text.encode())} bytes of boot parameters; allowed: {COMMAND_LINE_MAX}")
    if parse(text) != parameters:
        raise ValueError(f"{text!r} would be read as other parameters than these")
    return text


def _known(name: str, value: str | None) -> tuple[str, object] | None:
    """The field of BootParameters that *name* sets, and to what; None for a name that is init's business."""
    match name:
        case "quiet" if value is None:
            return "quiet", True
        case "quiet":
            raise ValueError(f"got {value!r}; allowed: no value")
        case "present_mask":
            return "cpus", parse_cpus(_given(value, "present_mask=0-1,3"))
        case "mem":
            return "memory_bytes", parse_size(_given(value, "mem=512M"))
        case "vty":
            return "ttys", _whole(_given(value, "vty=2"), 1, TTYS_MAX)
        case "loglevel":
            return "loglevel", _whole(_given(value, "loglevel=7"), 0, _LOGLEVEL_MAX)
        case "hostname":
            return "hostname", names.hostname(_given(value, "hostname=k1"))
        case "ip":
            return "address", str(IPv4Address(_given(value, "ip=10.1.2.2")))
        case "init":
            return "init", names.program(_given(value, "init=/sbin/init"))
        case _:
            return None


def _given(value: str | None, example: str) -> str:
    if not value:
        raise ValueError(f"it has no value; write it as in {example}")
    return value


def _whole(text: str, minimum: int, maximum: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and minimum <= int(text) <= maximum):
        raise ValueError(f"got {text!r}; allowed: {minimum} to {maximum}")
    return int(text)


def _split(text: str) -> list[str]:
    """The words of *text*, without their quotes."""
    words: list[str] = []
    word: str | None = None
    quoted = False
    for character in text:
        if character == '"':
            quoted = not quoted
            word = word or ""
        elif character.isspace() and not quoted:
            if word:
                words.append(word)
            word = None
        elif not character.isprintable():
            raise ValueError(f"character {character!r} cannot stand in a boot parameter")
        else:
            word = (word or "") + character
    if quoted:
        raise ValueError('a double quote (") is opened and never closed')
    return [*words, word] if word else words


def _word(name: str, value: str | None) -> str:
    text = name if value is None else f"{name}={value}"
    if '"' in text or not text.isprintable() or not name:
        raise ValueError(f"{text!r} cannot be written in a command line")
    if " " not in text:
        return text
    return f'"{text}"' if value is None or " " in name else f'{name}="{value}"'
