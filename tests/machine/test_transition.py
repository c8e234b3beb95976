"""Plans: what a file changes, in which order, why a boot is needed, and that each step can be taken back."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popnet.core.errors import Refused
from popnet.machine import transition
from popnet.machine.faults import Way
from popnet.machine.file import load_image, loads
from popnet.machine.host import Host
from popnet.machine.image import Image
from popnet.machine.impairment import Impairment
from popnet.machine.search import image_search_path
from popnet.machine.spec import KernelSpec, MachineSpec
from popnet.machine.transition import Standing, Step

HOST = Host(tuple(range(8)), 16 << 30)
START = "{k1: {cpus: 1-2, memory: 1G}, k2: {cpus: 3-4, image: light}}"


def machine(kernels: str = START, more: str = "", kids: Mapping[str, int] | None = None) -> MachineSpec:
    text = f"apiVersion: popnet/v1\nname: test\n{more}\nkernels: {kernels}\n"
    return loads(text, HOST, image_search_path({}), kids=kids)


def images_of(spec: MachineSpec) -> dict[str, Image]:
    return {kernel.image: load_image(kernel.image_path) for kernel in spec.kernels}


Known = tuple[dict[str, Standing], dict[Way, Impairment]]


def standing(spec: MachineSpec) -> Known:
    images = images_of(spec)
    return (
        {kernel.name: Standing(kernel, images[kernel.image]) for kernel in spec.kernels},
        dict(spec.impairments),
    )


def steps(old: MachineSpec, new: MachineSpec, known: Known | None = None) -> tuple[Step, ...]:
    kernels, links = known or standing(old)
    return transition.plan(old, kernels, links, new, images_of(new))


def texts(kernels: str, more: str = "") -> list[str]:
    old = machine()
    kids = {kernel.name: kernel.kid for kernel in old.kernels}
    return [step.text for step in steps(old, machine(kernels, more, kids))]


def done(known: Known, step: Step) -> Known:
    """The model: what is there after a step."""
    kernels, links = dict(known[0]), dict(known[1])
    match step:
        case transition.Update(_, new):
            kernels[new.name] = replace(kernels[new.name], spec=new)
        case transition.Reboot(_, new, image) | transition.Boot(new, image):
            kernels[new.name] = Standing(new, image)
        case transition.Stop(old) | transition.Keep(old):
            kernels[old.spec.name] = old
        case transition.Unload(old):
            del kernels[old.spec.name]
        case transition.Impair(way, _, new):
            links.pop(way, None)
            if new != Impairment():
                links[way] = new
    return kernels, links


def test_what_is_there_already_takes_no_steps() -> None:
    assert texts(START) == []


@pytest.mark.parametrize(
    ("kernels", "expected"),
    [
        ("{k1: {cpus: 1-2, memory: 2G}, k2: {cpus: 3-4, image: light}}", ["update k1: memory 1G -> 2G"]),
        (
            "{k1: {cpus: 1-3, memory: 1G}, k2: {cpus: '4', image: light}}",
            ["update k2: CPUs 3-4 -> 4", "update k1: CPUs 1-2 -> 1-3"],
        ),
        (
            "{k1: {cpus: 1-2, memory: 1G, ttys: 3}, k2: {cpus: 3-4, image: light}}",
            ["reboot k1: number of terminals 2 -> 3"],
        ),
        (
            "{k1: {cpus: 1-2, memory: 1G, append: 'quiet'}, k2: {cpus: 3-4, image: light}}",
            ["reboot k1: other boot parameters"],
        ),
        (
            "{k1: {cpus: 1-2, memory: 1G, restart: always}, k2: {cpus: 3-4, image: light}}",
            ["update k1: restart never -> always"],
        ),
        (
            START.replace("1G}", "1G, devices: [loop0]}").replace("light}", "light, devices: ['fuse:b']}"),
            [
                "update k1: devices +loop0",
                "reboot k2: devices that all kernels share come and go with a boot",
            ],
        ),
        ("{k2: {cpus: 3-4, image: light}}", ["unload k1: the file does not have it"]),
    ],
)
def test_each_difference_is_a_step_and_says_why(kernels: str, expected: list[str]) -> None:
    found = texts(kernels)
    assert [text for text in found if " primary: " not in text] == expected


def test_a_new_kernel_in_front_leaves_the_others_their_numbers() -> None:
    found = texts("{k0: {cpus: '5'}, k1: {cpus: 1-2, memory: 1G}, k2: {cpus: 3-4, image: light}}")
    assert [text for text in found if "primary" not in text] == ["boot k0: it is new"]
    kept = machine("{k0: {kid: 1}, k1: {}, k2: {}}", kids={"k1": 1, "k2": 2})
    assert {kernel.name: kernel.kid for kernel in kept.kernels} == {"primary": 0, "k0": 1, "k2": 2, "k1": 3}


def test_another_image_takes_a_boot_and_so_does_one_that_has_changed() -> None:
    old = machine()
    kernels, links = standing(old)
    light = replace(kernels["k2"].image, ttys=9)
    changed = {**kernels, "k2": replace(kernels["k2"], image=light)}
    assert [step.text for step in steps(old, old, (changed, links))] == ["reboot k2: its image has changed"]
    [text] = texts(START.replace("image: light", "image: full"))
    assert text.startswith("reboot k2: image light -> full")


def test_cores_alone_change_with_a_boot() -> None:
    before = replace(machine().by_name("k1"), isolated=True)
    image = load_image(before.image_path)
    why = transition.reasons(Standing(before, image), replace(before, cpus=(5,)), image)
    assert why.startswith("cores alone 1-2 -> 5")


def test_what_does_not_run_is_booted() -> None:
    old = machine()
    kernels, links = standing(old)
    down = {**kernels, "k1": replace(kernels["k1"], runs=False, loaded=False)}
    new = machine(START.replace("1G", "2G"))
    [step] = steps(old, new, (down, links))
    assert step.text == "boot k1: it does not run"
    assert isinstance(step, transition.Boot)
    assert step.new.memory_bytes == 2 << 30
    assert done(done((down, links), step), step.undo) == (down, links)


def test_links_and_drawn_seeds() -> None:
    more = "links: [{link: [k1, k2], delay: 5ms}]"
    assert texts(START, more) == [
        "link k1 -> k2: nothing -> delay 5ms",
        "link k2 -> k1: nothing -> delay 5ms",
    ]
    old = machine(START, more)
    kernels, links = standing(old)
    drawn = {way: replace(impairment, seed=7) for way, impairment in links.items()}
    assert steps(old, old, (kernels, drawn)) == ()
    seeded = machine(START, more.replace("5ms", "5ms, seed: 8"))
    assert len(steps(old, seeded, (kernels, drawn))) == 2
    without = [step.text for step in steps(old, machine("{k2: {cpus: 3-4, image: light}}"), (kernels, drawn))]
    assert not any(text.startswith("link") for text in without), "they go with the kernel"


@pytest.mark.parametrize(
    ("kernels", "more", "reason"),
    [
        (START, "machine: {subnet: 10.9.9.0/24}", "subnet: 10.1.2.0/24 -> 10.9.9.0/24"),
        (START[:-1] + ", primary: {ttys: 5}}", "", "kernel primary: number of terminals 2 -> 5"),
    ],
)
def test_what_takes_another_machine_is_refused(kernels: str, more: str, reason: str) -> None:
    with pytest.raises(Refused, match="that takes another machine: ") as caught:
        texts(kernels, more)
    assert reason in str(caught.value)
    assert "popnet down" in caught.value.hint


KERNEL = st.fixed_dictionaries(
    {},
    optional={
        "image": st.sampled_from(["full", "light"]),
        "memory": st.sampled_from(["256M", "1G"]),
        "ttys": st.integers(1, 3),
        "restart": st.sampled_from(["never", "always"]),
        "devices": st.sampled_from(["[loop0]", "['fuse:b']"]),
    },
)
MACHINES = st.builds(
    lambda kernels, delays: (kernels, delays),
    st.dictionaries(st.sampled_from(["k1", "k2", "k3"]), KERNEL, max_size=3),
    st.sampled_from(["", "1ms", "2ms"]),
)


def written(drawn: tuple[dict[str, dict[str, object]], str], kids: Mapping[str, int]) -> MachineSpec:
    kernels, delay = drawn
    words = ", ".join(
        f"{name}: {{{', '.join(f'{key}: {value}' for key, value in keys.items())}}}"
        for name, keys in kernels.items()
    )
    link = f"links: [{{link: [k1, k2], delay: {delay}}}]" if delay and {"k1", "k2"} <= kernels.keys() else ""
    return machine(f"{{{words}}}", f"machine: {{overcommit: true}}\n{link}", kids)


@settings(deadline=None)
@given(MACHINES, MACHINES, st.sets(st.sampled_from(["k1", "k2", "k3"])))
def test_any_plan_leads_to_the_file_and_back_again(
    first: tuple[dict[str, dict[str, object]], str],
    second: tuple[dict[str, dict[str, object]], str],
    down: set[str],
) -> None:
    old = written(first, {})
    new = written(second, {kernel.name: kernel.kid for kernel in old.kernels})
    kernels, links = standing(old)
    for name in down & kernels.keys():
        kernels[name] = replace(kernels[name], runs=False, loaded=False)
    planned = steps(old, new, (kernels, links))
    states: list[Known] = [(kernels, links)]
    for step in planned:
        states.append(done(states[-1], step))
    end = states[-1]
    wanted = standing(new)
    assert {name: shown(kernel.spec) for name, kernel in end[0].items()} == {
        name: shown(kernel.spec) for name, kernel in wanted[0].items()
    }
    assert all(kernel.runs for kernel in end[0].values())
    gone = kernels.keys() - end[0].keys()
    assert {way: one for way, one in end[1].items() if not {way.source, way.target} & gone} == wanted[1]
    assert steps(new, new, (end[0], wanted[1])) == (), "a second apply does nothing"
    for step, before in zip(reversed(planned), reversed(states[:-1]), strict=True):
        end = done(end, step.undo)
        assert {name: k.spec for name, k in end[0].items()} == {name: k.spec for name, k in before[0].items()}
        assert end[1] == before[1]
    assert {name: kernel.runs for name, kernel in end[0].items()} == {
        name: kernel.runs for name, kernel in kernels.items()
    }


def shown(spec: KernelSpec) -> KernelSpec:
    """Without what only other kernels decide."""
    return replace(spec, cores=0)
