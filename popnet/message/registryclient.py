"""A kernel's side of the registry: tells its wishes to the primary, and its watchers what changed.

Theory of operation. Whatever changes here (a service, a watch, a group) makes one Sync soon, with all of it.
A link to the primary that comes up, and a `resync` from it, begin a new session: see `registry`. Callbacks
run from the loop, one notice at a time, in order.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from popnet.core import limits
from popnet.core.errors import LinkViolation, Refused
from popnet.message import codec
from popnet.message.kinds import Kind
from popnet.message.notice import Notice
from popnet.message.registry import Sync
from popnet.message.registryshell import PATTERN_MAX, RETRY_S, wishes_of
from popnet.message.watching import Watch

if TYPE_CHECKING:
    from popnet.message.endpoint import Endpoint

log = logging.getLogger(__name__)

PRIMARY: Final = 0
"""The kid of the kernel that has the registry."""

OnNotice: TypeAlias = Callable[[Notice], None]
OnView: TypeAlias = Callable[[str, int, list[Any]], None]


class RegistryClient:
    """Watches, and what the registry must know.

    Attributes:
        on_view: told (group, view, members) of each view.
        groups: the numbers of the memberships, by group; call `changed` after changing it.
    """

    def __init__(self, endpoint: "Endpoint") -> None:
        self._endpoint = endpoint
        self._watches: dict[int, tuple[Watch, OnNotice]] = {}
        self._watches_made = 0
        self._kids: dict[str, int] = {}
        self._session = 0
        self._sync_coming = False
        self.groups: dict[str, tuple[int, ...]] = {}
        self.on_view: OnView = lambda group, view, members: None

    def started(self) -> None:
        """The endpoint runs: links may come."""
        self._endpoint.on(Kind.NOTICE, self._noticed)
        self._endpoint.on_peer_up(self._linked)
        self.changed()

    def watch(self, pattern: str, callback: OnNotice) -> int:
        if len(pattern) > PATTERN_MAX:
            raise Refused(f"a pattern of {len(pattern)} letters; at most {PATTERN_MAX}")
        if len(self._watches) >= limits.WATCHES_MAX:
            raise Refused(f"more than {limits.WATCHES_MAX} watches of one kernel")
        self._watches_made += 1
        self._watches[self._watches_made] = (Watch(pattern), callback)
        self.changed()
        return self._watches_made

    def unwatch(self, number: int) -> None:
        """No callback of this watch comes any more. Idempotent."""
        if self._watches.pop(number, None) is not None:
            self.changed()

    async def kid_of(self, name: str, timeout_s: float) -> int:
        """The kid of the kernel of that name; it is the same for ever. Raises NoSuchKernel, from there."""
        if name not in self._kids:
            question = codec.json_bytes({"kernel": name})
            answer = await self._endpoint.call(PRIMARY, Kind.REGISTRY, question, timeout_s)
            self._kids[name] = codec.json_object(answer)["kid"]
        return self._kids[name]

    def changed(self) -> None:
        """Tell the registry soon."""
        if self._endpoint.running and not self._sync_coming:
            self._sync_coming = True
            self._endpoint.later(self._sync)

    def _linked(self, kid: int, generation: int) -> None:
        if kid == PRIMARY:
            self._begin_session()

    def _begin_session(self) -> None:
        self._session += 1
        self.changed()

    def _sync(self) -> None:
        self._sync_coming = False
        if not self._endpoint.running or not self._endpoint.has_link(PRIMARY):
            return  # a link begins a session, and that a Sync
        watches = {number: (watch.pattern, watch.seen) for number, (watch, _) in self._watches.items()}
        sync = Sync(
            self._endpoint.kid,
            self._endpoint.generation,
            self._session,
            self._endpoint.ports.wishes(),
            watches,
            dict(self.groups),
        )
        if not self._endpoint.post(PRIMARY, Kind.REGISTRY, wishes_of(sync)):
            asyncio.get_running_loop().call_later(RETRY_S, self.changed)

    def _noticed(self, kid: int, body: bytes) -> None:
        if kid != PRIMARY:
            raise LinkViolation("a notice from a kernel that has no registry")
        match codec.json_object(body):
            case {"resync": True}:
                self._begin_session()
            case {"session": int(session)} if session != self._session:
                self._endpoint.count("late_notices")
            case {"watch": int(number), "seq": int(seq), "notice": list(value)}:
                notice = Notice.of_json(value)
                if number in self._watches:
                    self._tell(number, list(self._watches[number][0].notice(seq, notice)))
            case {"watch": int(number), "seq": int(seq), "snapshot": list(values)}:
                ups = [Notice.of_json(value) for value in values]
                if number in self._watches:
                    self._tell(number, list(self._watches[number][0].snapshot(seq, ups)))
            case {"group": str(group), "view": int(view), "members": list(members)}:
                self.on_view(group, view, members)
            case unknown:
                raise LinkViolation(f"the registry noticed what is none: {str(unknown)[:80]}")

    def _tell(self, number: int, notices: list[Notice]) -> None:
        for notice in notices:
            if number not in self._watches:
                return  # a callback has ended its own watch
            try:
                self._watches[number][1](notice)
            except Exception:
                self._endpoint.count("handler_errors")
                log.exception("kernel %d: a watch failed", self._endpoint.kid)
