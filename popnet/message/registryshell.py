"""The registry on the primary's endpoint: takes wishes, sends notices. Decides nothing.

A notice that finds no room, or no link, blocks its kernel; every RETRY_S it is asked to begin a new session,
until it does or dies.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from popnet.core import limits
from popnet.core.errors import LinkViolation, NoSuchKernel
from popnet.message import codec
from popnet.message.form import NAME_MAX, U32_MAX
from popnet.message.kinds import Kind
from popnet.message.notice import Notice
from popnet.message.registry import Blocked, Changed, Down, Event, Registry, Resume, Sync, Tell

if TYPE_CHECKING:
    from popnet.message.endpoint import Endpoint

RETRY_S: Final = 0.1

PATTERN_MAX: Final = 128


class RegistryShell:
    """The registry of a machine, served by *endpoint* to every kernel, its own included.

    Args:
        names: of all kernels, by kid.
    """

    def __init__(self, endpoint: "Endpoint", names: Mapping[int, str]) -> None:
        self._endpoint = endpoint
        self._machine = Registry(names)
        self._retries: set[int] = set()
        endpoint.on(Kind.REGISTRY, self._wishes)
        endpoint.answer(Kind.REGISTRY, self._question)

    def down(self, kid: int, generation: int, reason: str) -> None:
        """*generation* of kernel *kid* is dead; the first reason counts."""
        self._do(Down(kid, generation, reason))

    def changed(self, kid: int, text: str) -> None:
        """Kernel *kid* has another partition; *text* says what of it changed."""
        self._do(Changed(kid, text))

    def services(self) -> list[Notice]:
        return self._machine.services()

    def groups(self) -> dict[str, list[int]]:
        return self._machine.groups()

    def _wishes(self, kid: int, body: bytes) -> None:
        self._do(sync_of(kid, codec.json_object(body)))

    async def _question(self, kid: int, body: bytes) -> bytes:
        name = codec.json_object(body).get("kernel")
        found = self._machine.kid_of(str(name))
        if found is None:
            raise NoSuchKernel(f"there is no kernel {name!r}")
        return codec.json_bytes({"kid": found})

    def _do(self, event: Event) -> None:
        blocked: set[int] = set()
        for tell in self._machine.handle(event):
            if tell.kid not in blocked and not self._post(tell):
                blocked.add(tell.kid)
                self._machine.handle(Blocked(tell.kid))
                self._retry(tell.kid)

    def _post(self, tell: Tell) -> bool:
        body = json.dumps(tell.body, separators=(",", ":")).encode()
        return self._endpoint.post(tell.kid, Kind.NOTICE, body)

    def _retry(self, kid: int) -> None:
        if kid not in self._retries and self._endpoint.running:
            self._retries.add(kid)
            asyncio.get_running_loop().call_later(RETRY_S, self._resume, kid)

    def _resume(self, kid: int) -> None:
        self._retries.discard(kid)
        for tell in self._machine.handle(Resume(kid)):
            self._post(tell)
            self._retry(kid)


def wishes_of(sync: Sync) -> bytes:
    """A Sync as it crosses a link; the sender's kid goes without saying."""
    return json.dumps(
        {
            "generation": sync.generation,
            "session": sync.session,
            "services": {name: list(value) for name, value in sync.services.items()},
            "watches": {str(number): list(value) for number, value in sync.watches.items()},
            "groups": {name: list(numbers) for name, numbers in sync.groups.items()},
        },
        separators=(",", ":"),
    ).encode()


def sync_of(kid: int, value: object) -> Sync:
    """What a kernel wishes. Raises LinkViolation."""
    match value:
        case {
            "generation": int(generation),
            "session": int(session),
            "services": dict(services),
            "watches": dict(watches),
            "groups": dict(groups),
        }:
            pass
        case _:
            raise LinkViolation(f"kernel {kid} told the registry what are no wishes")
    maxima = ((services, limits.SERVICES_MAX), (watches, limits.WATCHES_MAX), (groups, limits.GROUPS_MAX))
    if any(len(wishes) > most for wishes, most in maxima):
        raise LinkViolation(f"kernel {kid} wishes too much")
    if any(len(name) > NAME_MAX for name in (*services, *groups)):
        raise LinkViolation(f"kernel {kid} uses names longer than {NAME_MAX}")
    try:
        return Sync(
            kid,
            generation,
            session,
            {name: _service(service) for name, service in services.items()},
            {int(number): _watch(watch) for number, watch in watches.items()},
            _memberships(groups),
        )
    except ValueError as error:
        raise LinkViolation(f"kernel {kid} wishes nonsense: {error}") from None


def _memberships(groups: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, numbers in groups.items():
        if not isinstance(numbers, list) or not numbers or not all(type(n) is int for n in numbers):
            raise ValueError("memberships that are none")
        found[name] = tuple(numbers)
    every = [number for numbers in found.values() for number in numbers]
    if len(every) > limits.GROUPS_MAX or len(set(every)) != len(every):
        raise ValueError("too many memberships, or one twice")
    return found


def _service(value: object) -> tuple[int, int]:
    match value:
        case [int(version), int(port)] if 0 <= version <= U32_MAX and 0 < port <= U32_MAX:
            return version, port
    raise ValueError("a service without version and port")


def _watch(value: object) -> tuple[str, int | None]:
    match value:
        case [str(pattern), int() | None as seen] if len(pattern) <= PATTERN_MAX:
            return pattern, seen
    raise ValueError("a watch without pattern")
