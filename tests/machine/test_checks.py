"""Self-checks in a machine file: what may be written, what is wrong with the rest, how they are judged."""

import pytest

from popnet.core.errors import InvalidMachineFile
from popnet.machine import checks
from popnet.machine import file as machine_file
from popnet.machine.checks import Check, wrong
from popnet.machine.host import Host
from popnet.machine.search import image_search_path

HEAD = "apiVersion: popnet/v1\nname: test\nkernels:\n  k1: {image: full}\n  k2: {image: full}\nchecks:\n"


def read(*items: str) -> tuple[Check, ...]:
    text = HEAD + "".join(f"  - {item}\n" for item in items)
    return machine_file.loads(text, Host((0, 1), 1 << 30), image_search_path({})).checks


def test_a_command_a_reach_and_a_state() -> None:
    found = read(
        "{name: one, kernel: k1, run: uname -n, stdout: '^{kernel}$', status: 3, stderr: x, timeout: 1500ms}",
        "{name: two, kernel: [k1, k2], run: [echo, 'a b']}",
        "{name: three, kernel: k1, reach: all}",
        "{name: four, state: online}",
    )
    one = Check("one", ("k1",), ("sh", "-c", "uname -n"), 3, "^{kernel}$", "x", (), "", 1.5)
    assert found[0] == one
    assert (found[1].kernels, found[1].run, found[1].timeout_s) == (("k1", "k2"), ("echo", "a b"), 10.0)
    assert found[2].parts() == [("k1", "primary"), ("k1", "k2")], "nobody pings itself"
    assert found[3].parts() == [("primary", None), ("k1", None), ("k2", None)]
    assert [Check.from_row(check.row()) for check in found] == list(found)


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ("{kernel: k1, run: x}", "checks.0: no 'name': say in a few words what must be true"),
        ("{name: n, run: x}", "checks.0: no 'kernel': say where it runs, or 'all'"),
        ("{name: n, kernel: k1}", "checks.0: exactly one of run, reach, state is needed; got none"),
        (
            "{name: n, reach: all, state: online}",
            "exactly one of run, reach, state is needed; got reach and state",
        ),
        ("{name: n, kernel: k3, run: x}", "checks.0.kernel: no kernel 'k3'; allowed: primary, k1, k2, all"),
        ("{name: n, reach: [k1, kx]}", "checks.0.reach.1: no kernel 'kx'"),
        ("{name: n, state: onlin}", "checks.0.state: got 'onlin'; did you mean 'online'?"),
        ("{name: n, kernel: k1, run: x, stdout: '('}", "checks.0.stdout: got '(': no regular expression"),
        (
            "{name: n, kernel: k1, run: []}",
            "checks.0.run: got a list; allowed: a line for the shell, or a list of words",
        ),
        ("{name: n, kernel: k1, run: x, status: 256}", "allowed: a whole number from 0 to 255"),
        ("{name: n, state: online, stdout: x}", "checks.0.stdout: only for 'run': what a command does"),
        ("{name: n, kernel: k1, runn: x}", "checks.0.runn: unknown key; did you mean 'run'?"),
        ("{name: n, kernel: k1, run: x, timeout: never}", "checks.0.timeout: got 'never'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(item: str, problem: str) -> None:
    with pytest.raises(InvalidMachineFile) as caught:
        read(item)
    assert problem in str(caught.value)


def test_names_are_unique_and_checks_are_a_list() -> None:
    with pytest.raises(InvalidMachineFile, match=r"checks.1.name: 'n' is the name of another check already"):
        read("{name: n, state: online}", "{name: n, state: online}")
    with pytest.raises(InvalidMachineFile, match=r"checks: got .*; allowed: a list"):
        machine_file.loads(f"{HEAD}  a: b\n", Host((0, 1), 1 << 30), image_search_path({}))
    many = "\n".join(f"  - {{name: n{n}, state: online}}" for n in range(checks.CHECKS_MAX + 1))
    with pytest.raises(InvalidMachineFile, match="allowed: 1000"):
        machine_file.loads(f"{HEAD}{many}\n", Host((0, 1), 1 << 30), image_search_path({}))


def test_a_kernel_may_be_called_all() -> None:
    text = "apiVersion: popnet/v1\nname: t\nkernels:\n  all: {image: full}\nchecks:\n"
    text += "  - {name: n, kernel: all, run: x}\n"
    found = machine_file.loads(text, Host((0, 1), 1 << 30), image_search_path({})).checks
    assert found[0].kernels == ("all",)


def test_outcomes_are_judged() -> None:
    check = Check("n", ("k1",), ("x",), 0, "^{kernel}: [0-9]+$", "warn")
    assert wrong(check, "k1", 0, "a\nk1: 12\n", "a warning") == ""
    assert wrong(check, "k1", 3, "", "oh no\n") == "exit status 3, not 0; it said 'oh no'"
    assert wrong(check, "k1", 3, "", "") == "exit status 3, not 0"
    assert (
        wrong(check, "k2", 0, "k1: 12", "warn") == "stdout is 'k1: 12', in which '^k2: [0-9]+$' is not found"
    )
    assert wrong(check, "k1", 0, "k1: 1", "x" * 500).startswith(f"stderr is '{'x' * 397}...'")
    assert wrong(Check("n", ("k1",), ("x",), 7), "k1", 7, "", "") == ""
