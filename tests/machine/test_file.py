"""The machine file: a good one, every kind of bad one, and all errors at once."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from popnet.core.errors import InvalidMachineFile
from popnet.machine.file import load, load_image, loads, schema
from popnet.machine.host import Host
from popnet.machine.search import image_search_path
from popnet.machine.spec import MachineSpec

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "kernels"
HOST = Host(cpus=(0, 1, 2, 3), memory_bytes=8 << 30)
IMAGES = [str(KERNELS)]
TOP = "apiVersion: popnet/v1\nname: m\n"


def machine(text: str, host: Host = HOST) -> MachineSpec:
    return loads(TOP + text, host, IMAGES, file="m.yaml")


def errors(text: str, top: str = TOP, host: Host = HOST) -> list[str]:
    with pytest.raises(InvalidMachineFile) as caught:
        loads(top + text, host, IMAGES, file="m.yaml")
    return str(caught.value).splitlines()


def test_defaults() -> None:
    spec = machine("kernels: {k1: }\n")
    primary, k1 = spec.kernels
    assert (primary.kid, primary.name, primary.image) == (0, "primary", "full")
    assert (k1.kid, k1.name, k1.hostname, k1.image, k1.mtu) == (1, "k1", "k1", "full", 1500)
    assert (k1.memory_bytes, k1.init, k1.ssh, k1.env) == (None, None, True, ())
    assert (primary.cpus, k1.cpus) == ((0, 1), (2, 3))
    assert k1.image_path == str(KERNELS / "full")
    assert k1.cmdline == "present_mask=2-3 vty=2 hostname=k1 ip=10.1.2.2"
    assert str(spec.ipv4(k1)) == "10.1.2.2"
    assert str(spec.ipv6(k1)) == "fd70:6f70:6e65:1::2"


def test_every_key() -> None:
    spec = machine(
        """
machine: {cpus: 0-2, memory: 4G, mtu: 9000, subnet: 192.168.7.0/24, subnet6: "fd00:1::/64", overcommit: false}
kernels:
  primary: {cpus: 0, memory: 512M}
  k1: {image: light, cpus: 1-2, memory: 512MiB, ttys: 3, mtu: 1400, hostname: one.lab, init: /bin/sh,
       append: "quiet foo=1 loglevel=5", env: {A: "x y", B: 2}, ssh: false, kid: 9}
"""
    )
    k1 = spec.by_name("k1")
    assert (k1.kid, k1.cpus, k1.memory_bytes, k1.ttys, k1.mtu) == (9, (1, 2), 512 << 20, 3, 1400)
    assert (k1.hostname, k1.init, k1.ssh, k1.env) == ("one.lab", "/bin/sh", False, (("A", "x y"), ("B", "2")))
    assert k1.append == "quiet foo=1 loglevel=5"
    assert k1.cmdline == (
        "present_mask=1-2 mem=512M vty=3 hostname=one.lab ip=192.168.7.10 quiet loglevel=5 init=/bin/sh foo=1"
    )
    assert spec.primary.memory_bytes == 512 << 20


def test_services_of_programs() -> None:
    kernels = machine("kernels: {k1: {}, k2: {services: []}, k3: {services: [echo, my.store]}}\n").kernels
    assert [kernel.services for kernel in kernels] == [None, None, (), ("echo", "my.store")]


def test_groups_of_programs() -> None:
    kernels = machine("kernels: {k1: {}, k2: {groups: []}, k3: {groups: [workers, exec]}}\n").kernels
    assert [kernel.groups for kernel in kernels] == [None, None, (), ("workers", "exec")]


def test_append_can_stand_for_keys() -> None:
    k1 = machine(
        'kernels: {k1: {append: "present_mask=3 mem=256M vty=4 hostname=x init=/bin/sh"}}\n'
    ).by_name("k1")
    assert (k1.cpus, k1.memory_bytes, k1.ttys, k1.hostname, k1.init) == ((3,), 256 << 20, 4, "x", "/bin/sh")


def test_one_cpu_is_enough_for_the_demo() -> None:
    path = str(KERNELS / "machines" / "demo.yaml")
    spec = load(path, Host((0,), 1 << 30), IMAGES)
    assert [kernel.name for kernel in spec.kernels] == ["primary", "k1", "k2", "k3"]
    assert {kernel.cpus for kernel in spec.kernels} == {(0,)}
    assert spec.file == path


@pytest.mark.parametrize("name", ["demo", "pair"])
def test_machines_we_bring_fit_the_schema(name: str) -> None:
    data = yaml.safe_load((KERNELS / "machines" / f"{name}.yaml").read_text())
    jsonschema.validate(data, schema(), cls=jsonschema.Draft202012Validator)


def test_schema_refuses_an_unknown_key() -> None:
    data = {"apiVersion": "popnet/v1", "name": "m", "kernels": {"k1": {"memroy": "1G"}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema())


def test_stored_schema_is_current() -> None:
    stored = json.loads((KERNELS / "machine.schema.json").read_text())
    assert stored == schema(), "run: python -m popnet.machine.file > kernels/machine.schema.json"


def test_every_error_at_once() -> None:
    with pytest.raises(InvalidMachineFile) as caught:
        load(str(HERE / "wrong.yaml"), HOST, IMAGES)
    text = str(caught.value).replace(str(HERE) + "/", "").replace(str(KERNELS), "kernels") + "\n"
    assert text == (HERE / "wrong.expected").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "m.yaml:1:1: the file is empty"),
        ("# nothing\n", "m.yaml:1:1: the file is empty"),
        (
            "- 1\n",
            "m.yaml:1:1: got a list; allowed: a mapping with the keys apiVersion, name, machine, kernels",
        ),
        ("a: b: c\n", "m.yaml:1:5: not valid YAML: mapping values are not allowed here"),
        ("a:\n\tb: c\n", "m.yaml:2:1: not valid YAML: found character '\\t' that cannot start any token"),
        ("a: [1\n", "m.yaml:2:1: not valid YAML: expected ',' or ']'"),
        ("a: \x01\n", "m.yaml:1:4: character '\\x01' is not allowed in YAML"),
        ("[" * 5000, "m.yaml:1:1: nested too deeply"),
        ("a: 1\n--- \nb: 1\n", "m.yaml:2:1: not valid YAML"),
    ],
)
def test_texts_that_are_no_mapping(text: str, expected: str) -> None:
    (line,) = errors(text, top="")
    assert line.startswith(expected)


def test_missing_top_keys() -> None:
    assert errors("machine: {}\n", top="") == [
        "m.yaml:1:1: key 'apiVersion' is missing; write 'apiVersion: popnet/v1'",
        "m.yaml:1:1: key 'name' is missing",
        "m.yaml:1:1: key 'kernels' is missing; it names the kernels",
    ]


def test_missing_file_names_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text("")
    with pytest.raises(
        InvalidMachineFile, match=r"lba\.yaml: cannot read this machine file: no such file"
    ) as caught:
        load(str(tmp_path / "lba.yaml"), HOST, IMAGES)
    assert "lab.yaml" in caught.value.hint


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(b"name: x\nabc: \xff\n")
    with pytest.raises(InvalidMachineFile, match=r"m\.yaml:2:6: byte 0xff is not UTF-8"):
        load(str(tmp_path / "m.yaml"), HOST, IMAGES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kernels: 3", "m.yaml:3:10: kernels: got 3; allowed: a mapping of names to kernels"),
        ("kernels: {k1: 3}", "m.yaml:3:15: kernels.k1: got 3; allowed: a mapping with the keys image, "),
        ("kernels: {1k: {}}", "m.yaml:3:11: kernels.1k: not a kernel's name: got '1k'; allowed: "),
        ("kernels: {k1: {ram: 1G}}", "m.yaml:3:16: kernels.k1.ram: unknown key; did you mean 'memory'?"),
        ("kernels: {k1: {zzz: 1}}", "m.yaml:3:16: kernels.k1.zzz: unknown key; allowed: image, cpus, "),
        ("kernels: {k1: {cpus: }}", "m.yaml:3:21: kernels.k1.cpus: got nothing; allowed: auto or a list"),
        (
            "kernels: {k1: {cpus: 3-1}}",
            "m.yaml:3:22: kernels.k1.cpus: got '3-1', whose range 3-1 runs backwards",
        ),
        (
            "kernels: {k1: {cpus: 0-99999}}",
            "m.yaml:3:22: kernels.k1.cpus: got '0-99999'; allowed: CPUs from 0",
        ),
        (
            "kernels: {k1: {cpus: 2-5}}",
            "m.yaml:3:22: kernels.k1.cpus: got '2-5', but this host has no CPU 4-5; ",
        ),
        ("kernels: {k1: {memory: 1X}}", "m.yaml:3:24: kernels.k1.memory: got '1X'; allowed: a size such as"),
        (
            "kernels: {k1: {memory: 512}}",
            "m.yaml:3:24: kernels.k1.memory: got 512, 512 bytes; allowed: at least",
        ),
        ("kernels: {k1: {memory: 9G}}", "m.yaml:3:24: kernels.k1.memory: got 9G, but this host has 8G"),
        (
            "kernels: {k1: {ttys: 17}}",
            "m.yaml:3:22: kernels.k1.ttys: got 17; allowed: a whole number from 1 to",
        ),
        ("kernels: {k1: {ttys: '2'}}", "m.yaml:3:22: kernels.k1.ttys: got '2'; allowed: a whole number"),
        ("kernels: {k1: {ttys: true}}", "m.yaml:3:22: kernels.k1.ttys: got true; allowed: a whole number"),
        (
            "kernels: {k1: {mtu: 100}}",
            "m.yaml:3:21: kernels.k1.mtu: got 100; allowed: a whole number from 576",
        ),
        ("kernels: {k1: {hostname: a_b}}", "m.yaml:3:26: kernels.k1.hostname: got 'a_b'; allowed: up to 64"),
        ("kernels: {k1: {init: sh}}", "m.yaml:3:22: kernels.k1.init: got 'sh'; allowed: the absolute path"),
        ("kernels: {k1: {ssh: yes}}", "m.yaml:3:21: kernels.k1.ssh: got 'yes'; allowed: true or false"),
        (
            "kernels: {k1: {services: echo}}",
            "m.yaml:3:26: kernels.k1.services: got 'echo'; allowed: a list of services",
        ),
        (
            "kernels: {k1: {services: [echo, exec]}}",
            "m.yaml:3:26: kernels.k1.services: got 'exec', which belongs to the kernels themselves",
        ),
        (
            "kernels: {k1: {services: ['']}}",
            "m.yaml:3:26: kernels.k1.services: got ''; allowed: a name of 1 to 64 letters",
        ),
        (
            "kernels: {k1: {groups: workers}}",
            "m.yaml:3:24: kernels.k1.groups: got 'workers'; allowed: a list of groups",
        ),
        (
            "kernels: {k1: {groups: ['']}}",
            "m.yaml:3:24: kernels.k1.groups: got ''; allowed: a name of 1 to 64 letters",
        ),
        ("kernels: {k1: {kid: 010}}", "m.yaml:3:21: kernels.k1.kid: got '010'; allowed: a whole number"),
        ("kernels: {k1: {kid: 255}}", "m.yaml:3:21: kernels.k1.kid: got 255; allowed: a whole number from 0"),
        ("kernels: {k1: {kid: 0}}", "m.yaml:3:21: kernels.k1.kid: kid 0 belongs to primary; give each"),
        (
            "kernels: {primary: {kid: 1}}",
            "m.yaml:3:26: kernels.primary.kid: got 1; the primary is always kid 0",
        ),
        ("kernels: {k1: {append: 'a \"b'}}", "m.yaml:3:24: kernels.k1.append: a double quote"),
        ("kernels: {k1: {append: mem=x}}", "m.yaml:3:24: kernels.k1.append: mem=: got 'x'; allowed: a size"),
        (
            "kernels: {k1: {append: ip=1.2.3.4}}",
            "m.yaml:3:24: kernels.k1.append: got '1.2.3.4'; allowed: an address of 10.1.2.0/24, 10.1.2.1 to",
        ),
        ("kernels: {k1: {ip: 10.1.2.1}}", "m.yaml:3:20: kernels.k1.ip: 10.1.2.1 is the address of primary; "),
        ("kernels: {k1: {ip: 10.1.2.255}}", "m.yaml:3:20: kernels.k1.ip: got '10.1.2.255'; allowed: an addr"),
        ("kernels: {k1: {ip: no}}", "m.yaml:3:20: kernels.k1.ip: got 'no'; allowed: an IPv4 address such as"),
        (
            "kernels: {k1: {append: memmap=1G@9G}}",
            "m.yaml:3:24: kernels.k1.append: 1G@9G is not all memory: the machine has nothing there (1G@9G); "
            "it has 8G@0; the nearest that is free is 1G@7G",
        ),
        (
            "kernels: {k1: {memmap: 2G@1G}, k2: {memmap: 1G@2G}}",
            "m.yaml:3:45: kernels.k2.memmap: 1G@2G overlaps k1, which has 2G@1G, by 1G@2G; "
            "the nearest that is free is 1G@3G",
        ),
        ("kernels: {k1: {memmap: 1G}}", "m.yaml:3:24: kernels.k1.memmap: got '1G'; allowed: SIZE@START for"),
        ("kernels: {k1: {memmap: 1G@1G, memory: 1G}}", "m.yaml:3:39: kernels.k1.memory: the memory map says"),
        (
            "kernels: {k1: {append: mem=512}}",
            "m.yaml:3:24: kernels.k1.append: that is 512 of memory; allowed",
        ),
        (
            "kernels: {k1: {append: memmap=1M@1G}}",
            "m.yaml:3:24: kernels.k1.append: that is 1M of memory; all",
        ),
        ("kernels: {k1: {devices: loop0}}", "m.yaml:3:25: kernels.k1.devices: got 'loop0'; allowed: a list"),
        ("kernels: {k1: {devices: [../x]}}", "m.yaml:3:25: kernels.k1.devices: got '../x'; allowed: names"),
        (
            "kernels: {k1: {devices: [loop0, fuse]}, k2: {append: 'devices=fuse,loop0'}}",
            "m.yaml:3:54: kernels.k2.append: device loop0 belongs to k1; take it from one of the two, or",
        ),
        (
            "kernels: {k1: {append: 'pci_dev_flags=8086:10c9'}}",
            "m.yaml:3:24: kernels.k1.append: pci_dev_flags=",
        ),
        (
            "kernels: {k1: {append: mem=1G, memory: 1G}}",
            "m.yaml:3:24: kernels.k1.append: mem= means the same",
        ),
        ("kernels: {k1: {env: [a]}}", "m.yaml:3:21: kernels.k1.env: got a list; allowed: a mapping"),
        ("kernels: {k1: {env: {1A: x}}}", "m.yaml:3:22: kernels.k1.env.1A: got '1A'; allowed: letters"),
        ("kernels: {k1: {env: {A: true}}}", "m.yaml:3:25: kernels.k1.env.A: got true; allowed: a text"),
        (
            "kernels: {k1: {image: lihgt}}",
            "m.yaml:3:23: kernels.k1.image: no image 'lihgt'; did you mean 'light'?",
        ),
        (
            "kernels: {k1: {image: xyz}}",
            "m.yaml:3:23: kernels.k1.image: no image 'xyz'; allowed: compute, full, io, light, rt; look",
        ),
        (
            "kernels: {k1: {image: light, ssh: true}}",
            "m.yaml:3:35: kernels.k1.ssh: image 'light' has no sshd",
        ),
        ("kernels: {k1: {}, k1: {}}", "m.yaml:3:19: kernels.k1: duplicate key; it is also on line 3"),
        (
            "kernels: {k1: {cpus: 0-1}, k2: {cpus: 1-2}}",
            "m.yaml:3:39: kernels.k2.cpus: CPU 1 belongs to k1, which",
        ),
        (
            "kernels: {k1: {hostname: k2}, k2: {}}",
            "m.yaml:3:26: kernels.k1.hostname: 'k2' is the name of k2 alre",
        ),
        ("kernels: {k1: {kid: 2}, k2: {kid: 2}}", "m.yaml:3:35: kernels.k2.kid: kid 2 belongs to k1; give"),
        (
            "kernels: {k1: {memory: 6G}, k2: {memory: 3G}}",
            "m.yaml:3:42: kernels.k2.memory: with these 3G the kernels want 9G, but this host has 8G",
        ),
        (
            "kernels: {}\nmachine: {cpus: 7}",
            "m.yaml:4:17: machine.cpus: got '7', but this host has no CPU 7; it",
        ),
        (
            "kernels: {k1: {cpus: 3}}\nmachine: {cpus: 0-1}",
            "m.yaml:3:22: kernels.k1.cpus: got '3', but the machine",
        ),
        ("kernels: {}\nmachine: {memory: 9G}", "m.yaml:4:19: machine.memory: got 9G, but this host has 8G"),
        (
            "kernels: {}\nmachine: {subnet: x}",
            "m.yaml:4:19: machine.subnet: got 'x'; allowed: a network such as 10.",
        ),
        (
            "kernels: {}\nmachine: {subnet: 10.0.0.0}",
            "m.yaml:4:19: machine.subnet: got '10.0.0.0'; allowed: a netw",
        ),
        (
            "kernels: {}\nmachine: {subnet: 10.1.2.3/24}",
            "m.yaml:4:19: machine.subnet: got '10.1.2.3/24', which is not a network's own addr",
        ),
        (
            "kernels: {}\nmachine: {subnet: 8.8.8.0/24}",
            "m.yaml:4:19: machine.subnet: got '8.8.8.0/24'; allowed: a priv",
        ),
        (
            "kernels: {}\nmachine: {subnet6: '2001::/64'}",
            "m.yaml:4:20: machine.subnet6: got '2001::/64'; allowed: a un",
        ),
        (
            "kernels: {k1: {kid: 9}}\nmachine: {subnet: 10.0.0.0/29}",
            "m.yaml:4:19: machine.subnet: 10.0.0.0/29 has no address for kid 9 (k1), which needs",
        ),
        (
            "kernels: {}\nmachine: {subnet: !foo x}",
            "m.yaml:4:19: machine.subnet: tag '!foo' is not allowed here",
        ),
        ("kernels: {? [a] : 1}", "m.yaml:3:13: kernels: a key must be a word"),
        ("kernels: {<<: {k1: {}}}", "m.yaml:3:11: kernels: merge keys (<<) are not allowed"),
    ],
)
def test_one_error(text: str, expected: str) -> None:
    lines = errors(text + "\n")
    assert lines[0].startswith(expected)
    assert len(lines) == 1


def test_overcommit_lets_kernels_share() -> None:
    spec = machine(
        "machine: {overcommit: true}\nkernels: {k1: {cpus: 0-1, memory: 6G}, k2: {cpus: 1, memory: 6G}}\n"
    )
    assert [kernel.cpus for kernel in spec.kernels[1:]] == [(0, 1), (1,)]


def test_an_error_in_one_key_does_not_hide_another() -> None:
    lines = errors("kernels: {k1: {memory: x, cpus: 0}, k2: {cpus: 0, ttys: x}}\n")
    assert [line.split(": ")[1] for line in lines] == [
        "kernels.k1.memory",
        "kernels.k2.cpus",
        "kernels.k2.ttys",
    ]


def test_aliases_work_and_cannot_explode() -> None:
    spec = machine("kernels: {k1: &small {memory: 64M}, k2: *small}\n")
    assert spec.by_name("k2").memory_bytes == 64 << 20
    assert "alias makes the file endless" in errors("kernels: &a {k1: *a}\n")[0]
    bomb = "kernels: {k1: {env: " + "&a0 {}" + "}}\n"
    for depth in range(1, 30):
        bomb += f"x{depth}: &a{depth} [*a{depth - 1}, *a{depth - 1}]\n"
    assert any("far too large" in line for line in errors(bomb))


def test_too_many_kernels() -> None:
    text = "machine: {subnet: 10.0.0.0/16}\nkernels:\n" + "".join(
        f"  k{n}: {{image: light}}\n" for n in range(255)
    )
    assert any("kernels: 256 kernels, the primary included; allowed: 255" in line for line in errors(text))
    text = text.replace("  k254: {image: light}\n", "")
    spec = machine(text)
    assert [kernel.kid for kernel in spec.kernels] == list(range(255))


def test_a_24_holds_kids_up_to_253() -> None:
    assert machine("kernels: {k1: {kid: 253}}\n").by_name("k1").kid == 253
    assert "10.1.2.0/24 has no address for kid 254" in errors("kernels: {k1: {kid: 254}}\n")[0]


def test_errors_of_an_image_come_with_its_own_place(tmp_path: Path) -> None:
    image = tmp_path / "images" / "mine"
    image.mkdir(parents=True)
    (image / "image.yaml").write_text("apiVersion: popnet/v1\nkind: nativ\nappend: vty=3\nname: other\n")
    file = tmp_path / "m.yaml"
    file.write_text(TOP + "kernels: {k1: {image: mine, ttys: 0}}\n")
    with pytest.raises(InvalidMachineFile) as caught:
        load(str(file), HOST, [*image_search_path({}, str(file))])
    assert str(caught.value).splitlines() == [
        f"{image}/image.yaml:2:7: kind: got 'nativ'; did you mean 'native'?",
        f"{image}/image.yaml:3:9: append: "
        "CPUs, memory, devices, terminals, names and init belong to kernels, or have keys",
        f"{image}/image.yaml:4:7: name: got 'other'; allowed: 'mine', the name of its directory",
        f"{file}:3:35: kernels.k1.ttys: got 0; allowed: a whole number from 1 to 16",
    ]


def test_the_images_we_bring() -> None:
    full, light = load_image(str(KERNELS / "full")), load_image(str(KERNELS / "light"))
    assert (full.root, full.ssh, full.ttys) == ("host-overlay", True, 2)
    assert (light.root, light.ssh, light.ttys, light.programs) == ("ramdisk", False, 1, ("busybox",))
