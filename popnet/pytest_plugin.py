"""The pytest plugin: the fixture `machine`, a machine for each test that asks for one.

    @pytest.mark.popnet(kernels=3)
    async def test_ping(machine):
        assert (await machine["k1"].run(["ping", "-c1", "k3"])).ok

Each test has a machine of its own, with its own name and run directory, so tests may run side by side; it
is taken down whatever happens. When a test fails, the machine's events, the logs of its kernels and what
their terminals showed are added to the report, and whole to the directory `popnet` in the test's
`tmp_path`.

The fixture is asynchronous: it needs pytest-asyncio (or anyio). This module is loaded by every pytest where
popnet is installed, so it loads the rest of popnet only once a test asks for a machine.
"""

import json
import secrets
from collections.abc import AsyncIterator, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from popnet.api import Machine
    from popnet.control.client import Client

async_fixture: Any
try:
    from pytest_asyncio import fixture as async_fixture
except ImportError:
    async_fixture = pytest.fixture

_MACHINE: Final = pytest.StashKey[tuple["Machine", Path]]()
"""The machine of a test, and the directory for what it has to say."""

_TAIL_LINES: Final = 60
"""Lines of each log that go into the report; all of them are in the file."""

_EVIDENCE_S: Final = 5.0
"""Seconds that a machine may take for each log it is asked for."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "popnet(kernels=2, image='full', file=None, **options): the machine that the fixture `machine` "
        "boots: that many kernels k1, k2, ... of an image, with more options for each; or a machine file.",
    )


def machine_file(
    directory: Path,
    kernels: int = 2,
    image: str = "full",
    name: str = "test",
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a machine file of *kernels* kernels `k1`, `k2`, ... into *directory*; its path.

    Args:
        options: more keys for each kernel, such as {"memory": "64M", "ttys": 1}.
    """
    kernel = {"image": image, **(options or {})}
    document = {
        "apiVersion": "popnet/v1",
        "name": name,
        "kernels": {f"k{kid}": kernel for kid in range(1, kernels + 1)},
    }
    path = directory / f"{name}.yaml"
    path.write_text(json.dumps(document, indent=2))  # JSON is YAML
    return path


@async_fixture  # type: ignore[untyped-decorator]
async def machine(request: pytest.FixtureRequest, tmp_path: Path) -> "AsyncIterator[Machine]":
    """A machine that is up, for this test alone; see the marker `popnet`."""
    from popnet.api import Machine
    from popnet.core.errors import PopnetError

    name = f"t-{secrets.token_hex(6)}"
    file = _file(request, tmp_path, name)
    try:
        async with Machine.from_file(file, name=name, run_dir=tmp_path / "run") as machine:
            request.node.stash[_MACHINE] = machine, tmp_path / "popnet"
            yield machine
    except PopnetError as error:
        if error.hint:
            error.add_note(error.hint)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed and _MACHINE in item.stash:
        machine, directory = item.stash[_MACHINE]
        directory.mkdir(exist_ok=True)
        for title, text in evidence(machine.name, machine.client.socket.parents[1]).items():
            (directory / f"{title.replace(' ', '-')}.txt").write_text(text)
            report.sections.append((f"popnet: {title}", _tail(text)))
    return report


def evidence(name: str, run_dir: Path) -> dict[str, str]:
    """What a machine has to say about itself: texts, by titles such as `k1 dmesg`."""
    from popnet.control.client import Client
    from popnet.core.errors import PopnetError

    try:
        client = Client(name, run_dir=run_dir, timeout_s=_EVIDENCE_S)
        rows = client.get("/v1/kernels")
    except PopnetError as error:
        return {"machine": f"not to be asked: {error}"}
    sources = {"events": "/v1/events"}
    for row in rows:
        path = f"/v1/kernels/{row['name']}"
        sources[f"{row['name']} dmesg"] = f"{path}/dmesg"
        for n in range(row["ttys"]):
            sources[f"{row['name']} tty{n}"] = f"{path}/tty/{n}/history"
    texts = {title: _text(client, path) for title, path in sources.items()}
    states = "\n".join(f"{row['name']}: {row['state']} (generation {row['generation']})" for row in rows)
    return {"kernels": states, **{title: text for title, text in texts.items() if text.strip()}}


def _text(client: "Client", path: str) -> str:
    from popnet.core.errors import PopnetError

    try:
        answer = client.get(path)
    except PopnetError as error:
        return f"not to be had: {error}"
    if isinstance(answer, str):
        return answer.replace("\r\n", "\n")
    return "".join(f"{line.get('time_s', 0.0):.6f} {line.get('text', '')}\n" for line in answer)


def _tail(text: str) -> str:
    lines = text.splitlines()
    cut = [f"... {len(lines) - _TAIL_LINES} lines before"] if len(lines) > _TAIL_LINES else []
    return "\n".join([*cut, *lines[-_TAIL_LINES:]])


def _file(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> str | Path:
    marker = request.node.get_closest_marker("popnet")
    wanted = dict(marker.kwargs) if marker is not None else {}
    file = wanted.pop("file", None)
    if file is None:
        kernels, image = wanted.pop("kernels", 2), wanted.pop("image", "full")
        return machine_file(tmp_path, kernels, image, name, wanted)
    beside: Path = request.path.parent / file
    return beside if beside.exists() else str(file)
