"""What a machine file, or a request, says about wires: impaired links and NICs, and the plan of faults.

Pure, but for one question that a caller may answer: whether libpcap takes a filter.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from popnet.core.errors import Refused
from popnet.machine.faults import Fault, Flap, Way, ways
from popnet.machine.impairment import Impairment, contradictions
from popnet.machine.problems import Path, Problem, shown, suggestion
from popnet.machine.schema import (
    FaultSection,
    FlapSection,
    ImpairSection,
    LinkSection,
    NicSection,
    SectionType,
    checked,
)

CheckMatch = Callable[[str], str | None]
"""What is wrong with a filter, or None."""

ACTIONS: Final = ("down", "clear", "impair", "flap")
FAULTS_MAX: Final = 10_000


class Wires:
    """Reads the parts of one file, or of one request, and collects what is wrong.

    Args:
        kernels: names of those there are; None: not known, so not checked.
    """

    def __init__(self, kernels: Collection[str] | None, check_match: CheckMatch | None = None) -> None:
        self.problems: list[Problem] = []
        self.impairments: dict[Way, Impairment] = {}
        self.faults: list[Fault] = []
        self._kernels = kernels
        self._check_match = check_match
        self._places: dict[Way, Path] = {}

    def links(self, data: object) -> None:
        for path, item in self._items("links", data):
            self._impaired(path, self._section(LinkSection, item, path))

    def nics(self, data: object) -> None:
        for path, item in self._items("nics", data):
            self._impaired(path, self._section(NicSection, item, path))

    def plan(self, data: object) -> None:
        for path, item in self._items("faults", data):
            self._fault(path, self._section(FaultSection, item, path))

    def impairment(self, section: ImpairSection, path: Path) -> Impairment:
        impairment = section.impairment()
        for word, text in contradictions(impairment):
            self.problems.append(Problem((*path, word), text, at_key=True))
        if (
            impairment.match
            and self._check_match is not None
            and (wrong := self._check_match(impairment.match))
        ):
            self.problems.append(Problem((*path, "match"), wrong))
        return impairment

    def _items(self, key: str, data: object) -> list[tuple[Path, object]]:
        if data is None:
            return []
        if not isinstance(data, list):
            self.problems.append(
                Problem((key,), f"got {shown(data)}; allowed: a list, each item after a '-'")
            )
            return []
        if len(data) > FAULTS_MAX:
            self.problems.append(Problem((key,), f"{len(data)} items; allowed: {FAULTS_MAX}"))
            return []
        return [((key, str(number)), item) for number, item in enumerate(data)]

    def _section(self, kind: type[SectionType], data: object, path: Path) -> SectionType:
        section, problems = checked(kind, data, path)
        self.problems += problems
        return section

    def _impaired(self, path: Path, section: LinkSection | NicSection) -> None:
        impairment = self.impairment(section, path)
        link = section.link if isinstance(section, LinkSection) else None
        nic = section.nic if isinstance(section, NicSection) else None
        for way in self._ways(path, link, nic, section.direction, "link" if nic is None else "nic"):
            if way in self._places:
                other = ".".join(self._places[way])
                self.problems.append(Problem(path, f"{way} is impaired by {other} already; keep one of them"))
            self._places[way] = path
            self.impairments[way] = impairment

    def _ways(
        self, path: Path, link: tuple[str, str] | None, nic: str | None, direction: str, wanted: str
    ) -> tuple[Way, ...]:
        if link is None and nic is None:
            if not any(problem.path[: len(path)] == path for problem in self.problems):
                self.problems.append(Problem(path, f"no {wanted!r}: say where"))
            return ()
        if link is not None and nic is not None:
            self.problems.append(Problem((*path, "nic"), "'link' is given too; keep one of them"))
        names = link or (nic,)
        key = "link" if link else "nic"
        for number, name in enumerate(names):
            if self._kernels is not None and name not in self._kernels:
                where = (*path, key, str(number)) if link else (*path, key)
                text = f"no kernel {name!r}{suggestion(str(name), self._kernels)}"
                self.problems.append(Problem(where, text))
        if link and link[0] == link[1]:
            self.problems.append(Problem((*path, key), "a link joins two different kernels"))
            return ()
        first = names[0]
        assert first is not None
        return ways(first, link[1] if link else None, direction)

    def _fault(self, path: Path, section: FaultSection) -> None:
        before = len(self.problems)
        places = self._ways(path, section.link, section.nic, section.direction, "link' or 'nic")
        actions = [name for name in ACTIONS if getattr(section, name) is not None]
        if section.at is None and not any(problem.path == (*path, "at") for problem in self.problems):
            self.problems.append(Problem(path, "no 'at': say when, such as 'at: 5s'"))
        if len(actions) != 1 or section.clear is False:
            given = " and ".join(actions) or "none"
            self.problems.append(Problem(path, f"exactly one of {', '.join(ACTIONS)} is needed; got {given}"))
        impairment, flap = None, None
        if section.impair is not None:
            here = (*path, "impair")
            impairment = self.impairment(self._section(ImpairSection, section.impair, here), here)
        if section.flap is not None:
            told = self._section(FlapSection, section.flap, (*path, "flap"))
            flap = Flap(told.down, told.up, told.times)
        if section.clear:
            impairment = Impairment()
        if len(self.problems) == before and section.at is not None:
            self.faults.append(Fault(section.at, places, section.down, impairment, flap))


def read_impairment(words: object, check_match: CheckMatch | None = None) -> Impairment:
    """The impairment that *words*, of a request, say. Raises Refused, which names each that is wrong."""
    reader = Wires(None, check_match)
    section, reader.problems = checked(ImpairSection, words, ())
    impairment = reader.impairment(section, ())
    _refuse(reader.problems)
    return impairment


def read_plan(data: object, kernels: Collection[str], check_match: CheckMatch | None = None) -> list[Fault]:
    """The faults of a request. Raises Refused."""
    reader = Wires(kernels, check_match)
    reader.plan(data)
    _refuse(reader.problems)
    return reader.faults


def read_ways(kernel: object, peer: object, direction: object, kernels: Sequence[str]) -> tuple[Way, ...]:
    """The directions that a request names. Raises Refused."""
    for word, name in (("kernel", kernel), ("peer", peer)):
        if not isinstance(name, str) and (word == "kernel" or name is not None):
            raise Refused(f"{word}: got {shown(name)}; allowed: the name of a kernel")
    reader = Wires(kernels)
    where: Mapping[str, Any] = {"nic": kernel} if peer is None else {"link": [kernel, peer]}
    data = {**where, "direction": "both" if direction is None else direction}
    section, reader.problems = checked(FaultSection, data, ())
    found = (
        () if reader.problems else reader._ways((), section.link, section.nic, section.direction, "kernel")
    )
    _refuse(reader.problems)
    return found


def read_flap(data: object) -> Flap:
    """The flap of a request: down, up, times. Raises Refused."""
    section, problems = checked(FlapSection, data, ())
    _refuse(problems)
    return Flap(section.down, section.up, section.times)


def seeded(impairment: Impairment, seed: int) -> Impairment:
    """*impairment* with *seed*, unless it has one."""
    return impairment if impairment.seed is not None else replace(impairment, seed=seed)


def _refuse(problems: list[Problem]) -> None:
    if problems:
        texts = (": ".join(filter(None, (".".join(p.path), p.text))) for p in problems)
        raise Refused("; ".join(dict.fromkeys(texts)))
