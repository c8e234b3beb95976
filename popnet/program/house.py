"""What a program asks of its kernel, as `hosted` needs it; `popnet.kernel.programs` is the real one."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from popnet.message.membership import Member
from popnet.message.streamshell import LinkStream

if TYPE_CHECKING:
    from popnet.program.hosted import Hosted


class House(Protocol):
    """What a program asks of its kernel; all may raise PopnetError, which goes to the program."""

    def count(self, name: str) -> None:
        """One more of *name*."""

    async def open(self, kid: int, service: str, params: dict[str, Any]) -> LinkStream:
        """A stream for a program, if it may."""

    async def call(self, kid: int, kind: int, body: bytes, timeout_s: float, high: bool) -> bytes:
        """A call for a program, if it may."""

    def post(self, kid: int, kind: int, body: bytes, high: bool) -> None:
        """A message of a program's. What cannot or may not go is dropped, and counted."""

    async def send_to(self, kid: int, service: str, body: bytes, timeout_s: float, high: bool) -> None:
        """A message of a program's to a service by name, if it may."""

    async def call_of(self, kid: int, service: str, body: bytes, timeout_s: float, high: bool) -> bytes:
        """A call of a service by name, if the program may."""

    def watch(self, program: "Hosted", number: int, pattern: str) -> None:
        """Tell *program* of changes, with its own *number* for them."""

    def unwatch(self, program: "Hosted", number: int) -> None:
        """No more of these."""

    def register(self, program: "Hosted", what: dict[str, Any]) -> None:
        """Let *program* have a service, or the messages or calls of a kind."""

    def unregister(self, program: "Hosted", what: dict[str, Any]) -> None:
        """Take it from *program* again."""

    async def join(self, program: "Hosted", number: int, name: str, timeout_s: float) -> Member:
        """Let *program* into a group, with its own *number* for the membership."""

    async def leave(self, program: "Hosted", number: int, timeout_s: float) -> None:
        """Out of it again."""

    async def send_group(self, program: "Hosted", number: int, body: bytes, timeout_s: float) -> None:
        """A message of a program's to all members."""

    def hold(self, program: "Hosted", number: int, full: bool) -> None:
        """The program takes nothing of a group for now, or again."""

    def stream(self) -> AbstractContextManager[None]:
        """The place of one stream, for as long as it is held."""
