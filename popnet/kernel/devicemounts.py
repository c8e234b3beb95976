"""The devices of the host that a running kernel has in its /dev, beside those that it shares with others.

The daemon clones the mount of a device where the host's /dev is, and hands it over; init puts it into place.
As init did that after its other mounts were locked, it can take it away again. Who has a device open keeps it
open."""

import os
from collections.abc import Iterable
from typing import Protocol

from popnet.core.errors import Refused
from popnet.kernel import linux
from popnet.machine.devices import SHARED


class DeviceInit(Protocol):
    """What this needs of init."""

    async def mount_device(self, name: str, mount: int) -> None: ...

    async def unmount_device(self, name: str) -> None: ...


class DeviceMounts:
    """Those of one kernel; at first it has none but those of *shared* that its root was built with."""

    def __init__(self, init: DeviceInit, shared: Iterable[str]) -> None:
        self._init = init
        self._shared = set(shared) & set(SHARED)
        self._has: set[str] = set()

    async def set(self, names: Iterable[str]) -> None:
        """Have exactly *names*. Raises Refused, and then has what it had: a device is not there, or one of
        those that are for all kernels changes, which takes a boot."""
        wanted = set(names)
        for name in sorted((wanted & set(SHARED)) ^ self._shared):
            hint = "`popnet load KERNEL --append devices=...` says what it has from its next boot on."
            raise Refused(f"device {name} comes and goes with a boot only", hint)
        added: list[str] = []
        try:
            for name in sorted(wanted - self._shared - self._has):
                await self._add(name)
                added.append(name)
        except (OSError, Refused) as error:
            for name in added:
                await self._remove(name)
            raise Refused(f"device {name}: {getattr(error, 'strerror', None) or error}") from None
        for name in sorted(self._has - wanted):
            await self._remove(name)

    async def _add(self, name: str) -> None:
        mount = linux.clone_mount(f"/dev/{name}")
        try:
            await self._init.mount_device(name, mount)
        finally:
            os.close(mount)
        self._has.add(name)

    async def _remove(self, name: str) -> None:
        await self._init.unmount_device(name)
        self._has.discard(name)
