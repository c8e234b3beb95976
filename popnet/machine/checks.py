"""Self-checks of a machine: what its file says must be true of it while it runs, and whether it was.

Pure. A check is one of three: a command in kernels whose outcome is known, kernels that must reach each
other, or the state that kernels must be in. Whoever runs it asks `parts` what is to be done in which kernel,
and `wrong` what is wrong with what a command did.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from popnet.machine.problems import Path, Problem, shown, suggestion
from popnet.machine.schema import CHECK_ALL, CheckSection, checked

CHECKS_MAX: Final = 1000
_KINDS: Final = ("run", "reach", "state")
_SAID_MAX: Final = 400
"""Letters shown of what a command said."""


@dataclass(frozen=True, slots=True)
class Check:
    """One self-check.

    Attributes:
        kernels: whom it concerns.
        run: the command; empty for the other kinds.
        status: the exit status it must have.
        stdout, stderr: regular expressions (Python's; `^` and `$` match at lines) that must be found in what
            it writes; {kernel} stands for the kernel's name.
        reach: kernels that each of `kernels` must get an answer from.
        state: the state that `kernels` must be in, or come into in time.
    """

    name: str
    kernels: tuple[str, ...]
    run: tuple[str, ...] = ()
    status: int = 0
    stdout: str = ""
    stderr: str = ""
    reach: tuple[str, ...] = ()
    state: str = ""
    timeout_s: float = 10.0

    def row(self) -> dict[str, Any]:
        """It as the control API shows it."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Check":
        lists = {key: tuple(row[key]) for key in ("kernels", "run", "reach")}
        return cls(**{**row, **lists})

    def parts(self) -> list[tuple[str, str | None]]:
        """(kernel, peer) of each thing to do; the peer is None but for `reach`."""
        if not self.reach:
            return [(kernel, None) for kernel in self.kernels]
        return [(kernel, peer) for kernel in self.kernels for peer in self.reach if peer != kernel]


def wrong(check: Check, kernel: str, status: int, stdout: str, stderr: str) -> str:
    """What is wrong with what the command of *check* did in *kernel*; empty if nothing is."""
    if status != check.status:
        said = (
            f"; it said {_cut(stderr.strip() or stdout.strip())!r}"
            if stderr.strip() or stdout.strip()
            else ""
        )
        return f"exit status {status}, not {check.status}{said}"
    for name, pattern, text in (("stdout", check.stdout, stdout), ("stderr", check.stderr, stderr)):
        wanted = pattern.replace("{kernel}", re.escape(kernel))
        if pattern and re.search(wanted, text, re.MULTILINE) is None:
            return f"{name} is {_cut(text.strip())!r}, in which {wanted!r} is not found"
    return ""


def _cut(text: str) -> str:
    return text if len(text) <= _SAID_MAX else text[: _SAID_MAX - 3] + "..."


class Checks:
    """Reads the checks of one file, and collects what is wrong.

    Args:
        kernels: names of those there are.
    """

    def __init__(self, kernels: Sequence[str]) -> None:
        self.problems: list[Problem] = []
        self.checks: list[Check] = []
        self._kernels = tuple(kernels)
        self._names: set[str] = set()

    def read(self, data: object) -> None:
        if data is None:
            return
        if not isinstance(data, list):
            text = f"got {shown(data)}; allowed: a list, each item after a '-'"
            self.problems.append(Problem(("checks",), text))
            return
        if len(data) > CHECKS_MAX:
            self.problems.append(Problem(("checks",), f"{len(data)} items; allowed: {CHECKS_MAX}"))
            return
        for number, item in enumerate(data):
            self._one(("checks", str(number)), item)

    def _one(self, path: Path, data: object) -> None:
        before = len(self.problems)
        section, problems = checked(CheckSection, data, path)
        self.problems += problems
        given = data if isinstance(data, Mapping) else {}
        if section.name is None and "name" not in given:
            self.problems.append(Problem(path, "no 'name': say in a few words what must be true"))
        kinds = [kind for kind in _KINDS if kind in given]
        if len(kinds) != 1:
            got = " and ".join(kinds) or "none"
            self.problems.append(Problem(path, f"exactly one of {', '.join(_KINDS)} is needed; got {got}"))
        elif kinds != ["run"]:
            self.problems += [
                Problem((*path, key), "only for 'run': what a command does", at_key=True)
                for key in ("status", "stdout", "stderr")
                if key in given
            ]
        if kinds == ["run"] and "kernel" not in given:
            self.problems.append(Problem(path, f"no 'kernel': say where it runs, or {CHECK_ALL!r}"))
        kernels = self._named((*path, "kernel"), section.kernel or (CHECK_ALL,))
        reach = self._named((*path, "reach"), section.reach or ())
        if section.name is not None:
            if section.name in self._names:
                text = f"{section.name!r} is the name of another check already"
                self.problems.append(Problem((*path, "name"), text))
            self._names.add(section.name)
        if len(self.problems) > before or section.name is None:
            return
        self.checks.append(
            Check(
                section.name,
                kernels,
                section.run or (),
                section.status,
                section.stdout,
                section.stderr,
                reach,
                section.state or "",
                section.timeout / 1e9,
            )
        )

    def _named(self, path: Path, names: Collection[str]) -> tuple[str, ...]:
        if tuple(names) == (CHECK_ALL,) and CHECK_ALL not in self._kernels:
            return self._kernels
        for number, name in enumerate(names):
            if name not in self._kernels:
                where = path if len(names) == 1 else (*path, str(number))
                near = suggestion(name, (*self._kernels, CHECK_ALL))
                self.problems.append(Problem(where, f"no kernel {name!r}{near}"))
        return tuple(names)
