"""Boot parameters: a kernel's command line, in Linux style, with Popcorn's names.

    present_mask=1-2 mem=512M vty=2 hostname=k1 ip=10.1.2.2 quiet loglevel=7 init=/bin/sh colour=blue -- -l

As in Linux, words are split at blanks, double quotes protect blanks (`motd="hello there"`) and cannot be
written themselves, a `-` in a name equals `_`, and of a parameter given twice the last one counts (lists are
joined). `parameters` has each that is known. What is not known is kept for init: `name=value` becomes its
environment, a bare word its argument, and so does all after `--`.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from popnet.core.limits import COMMAND_LINE_MAX
from popnet.machine.devices import Device, PciFlag
from popnet.machine.memory import MapEntry
from popnet.machine.parameters import (
    BY_NAME,
    HARDWARE,
    LOGLEVEL_ALL,
    LOGLEVEL_DEFAULT,
    LOGLEVEL_QUIET,
    PARAMETERS,
    Parameter,
)


@dataclass(frozen=True, slots=True)
class BootParameters:
    """A command line, taken apart; None, False and () are "not given". `parameters` says what each means.

    Attributes:
        rest: what else was given, in order, as (name, value); a bare word has no value.
        arguments: what followed `--`.
    """

    cpus: tuple[int, ...] | None = None
    memory_bytes: int | None = None
    memmap: tuple[MapEntry, ...] = ()
    devices: tuple[Device, ...] = ()
    pci_flags: tuple[PciFlag, ...] = ()
    ttys: int | None = None
    hostname: str | None = None
    address: str | None = None
    quiet: bool = False
    debug: bool = False
    loglevel: int | None = None
    init: str | None = None
    rest: tuple[tuple[str, str | None], ...] = ()
    arguments: tuple[str, ...] = ()

    @property
    def console_level(self) -> int:
        """Lines of the log of a lower level reach the console."""
        if self.loglevel is not None:
            return self.loglevel
        return LOGLEVEL_ALL if self.debug else LOGLEVEL_QUIET if self.quiet else LOGLEVEL_DEFAULT

    @property
    def init_environment(self) -> dict[str, str]:
        """The unknown `name=value` parameters; a name with a dot is a module's, and not passed on."""
        return {name: value for name, value in self._for_init() if value is not None and "." not in name}

    @property
    def init_arguments(self) -> tuple[str, ...]:
        """The unknown bare words, and what followed `--`."""
        return (*(name for name, value in self._for_init() if value is None), *self.arguments)

    def over(self, defaults: "BootParameters") -> "BootParameters":
        """Both: of what both give, these count."""
        given = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if is_given(getattr(self, field.name))
        }
        given["rest"] = defaults.rest + self.rest
        given["arguments"] = defaults.arguments + self.arguments
        return replace(defaults, **given)

    def _for_init(self) -> list[tuple[str, str | None]]:
        return [(name, value) for name, value in self.rest if name.replace("-", "_") not in HARDWARE]


def is_given(value: object) -> bool:
    """Whether the *value* of a parameter is one: 0 is, None, False and () are not."""
    return value is not None and value is not False and value != ()


def parse(text: str) -> BootParameters:
    """The parameters in *text*; raises ValueError naming the one that is wrong."""
    words = _split(text)
    arguments: tuple[str, ...] = ()
    if "--" in words:
        end = words.index("--")
        arguments, words = tuple(words[end + 1 :]), words[:end]
    known: dict[str, Any] = {}
    rest: list[tuple[str, str | None]] = []
    for word in words:
        name, equals, text = word.partition("=")
        if not name:
            raise ValueError(f"{word!r} has no name before its '='")
        parameter = BY_NAME.get(name.replace("-", "_"))
        if parameter is None:
            rest.append((name, text if equals else None))
            continue
        try:
            value = _value(parameter, text if equals else None)
        except ValueError as error:
            raise ValueError(f"{name}=: {error}") from None
        known[parameter.field] = known.get(parameter.field, ()) + value if parameter.many else value
    return replace(BootParameters(rest=tuple(rest), arguments=arguments), **known)


def compose(parameters: BootParameters) -> str:
    """The command line that `parse` reads back as *parameters*; ValueError if there is none."""
    words: list[str] = []
    for parameter in PARAMETERS:
        value = getattr(parameters, parameter.field)
        if not is_given(value):
            continue
        words.append(
            parameter.name if parameter.parse is None else _word(parameter.name, parameter.write(value))
        )
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


def _value(parameter: Parameter, text: str | None) -> Any:
    if parameter.parse is None:
        if text is not None:
            raise ValueError(f"got {text!r}; allowed: no value")
        return True
    if not text:
        raise ValueError(f"it has no value; write it as in {parameter.example}")
    return parameter.parse(text)


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
