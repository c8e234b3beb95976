"""The machine file: one YAML text in, one validated MachineSpec out, or every error in it at once.

Each error is one line: where, which key, what was found, what is allowed, and what was probably meant:

    lab.yaml:9:5: kernels.k1.memroy: unknown key; did you mean 'memory'?

Nothing is started before the whole file is right.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

from popnet.core.errors import InvalidMachineFile
from popnet.machine import cmdline
from popnet.machine.checks import Checks
from popnet.machine.cmdline import BootParameters
from popnet.machine.document import read
from popnet.machine.gatewayspec import LISTEN_ALLOWED, GatewaySpec, tcp_address
from popnet.machine.host import Host
from popnet.machine.image import MANIFEST, SOURCED, Image
from popnet.machine.imagesource import source_problem
from popnet.machine.names import PRIMARY
from popnet.machine.problems import shown, suggestion
from popnet.machine.report import Report, read_text
from popnet.machine.resolve import resolve
from popnet.machine.schema import (
    FileSection,
    GatewaySection,
    ImageSection,
    KernelSection,
    MachineSection,
    image_schema,
    json_schema,
)
from popnet.machine.search import find_images
from popnet.machine.spec import MachineSpec
from popnet.machine.wires import CheckMatch, Wires


def load(
    path: str, host: Host, image_path: Sequence[str], check_match: CheckMatch | None = None
) -> MachineSpec:
    """The machine that the file at *path* describes on *host*, with images from the directories *image_path*.

    *check_match* says what is wrong with a filter; without it they are not looked at.

    Raises InvalidMachineFile with every error, one a line.
    """
    return loads(read_text(path, "machine file"), host, image_path, file=path, check_match=check_match)


def loads(
    text: str,
    host: Host,
    image_path: Sequence[str],
    file: str = "<text>",
    check_match: CheckMatch | None = None,
    kids: Mapping[str, int] | None = None,
) -> MachineSpec:
    """As `load`, of a *text* that came from *file*. Kernels in *kids* keep that number, unless the text gives
    it to another or them another."""
    report = Report(file, read(text))
    top = report.section(FileSection, ())
    if top is None or not isinstance(report.document.data, dict):
        raise report.error()
    for key, value in (("apiVersion", top.api_version), ("name", top.name)):
        if value is None and (key,) not in report.document.values:
            report.problem(
                (), f"key {key!r} is missing" + ("; write 'apiVersion: popnet/v1'" * (key == "apiVersion"))
            )
    if ("kernels",) not in report.document.values:
        report.problem((), "key 'kernels' is missing; it names the kernels")
    machine = report.section(MachineSection, ("machine",)) or MachineSection()
    sections: dict[str, KernelSection] = {}
    kernels = top.kernels if isinstance(top.kernels, dict) else {}
    if top.kernels is not None and not isinstance(top.kernels, dict):
        report.problem(("kernels",), f"got {shown(top.kernels)}; allowed: a mapping of names to kernels")
    for name in kernels:
        sections[name] = report.section(KernelSection, ("kernels", name)) or KernelSection()
    images = _images({PRIMARY: KernelSection(), **sections}, image_path, report)
    spec, problems = resolve(top.name or "", file, machine, sections, images, host, kids or {})
    wires = Wires([PRIMARY, *(name for name in sections if name != PRIMARY)], check_match)
    wires.links(top.links)
    wires.nics(top.nics)
    wires.plan(top.faults)
    checks = Checks([PRIMARY, *(name for name in sections if name != PRIMARY)])
    checks.read(top.checks)
    for problem in problems + wires.problems + checks.problems:
        report.add(problem)
    gateway = _gateway(report)
    if spec is None or report.lines:
        raise report.error()
    spec = replace(spec, gateway=gateway)
    impairments, faults = tuple(wires.impairments.items()), tuple(wires.faults)
    return replace(spec, impairments=impairments, faults=faults, checks=tuple(checks.checks))


def load_image(directory: str) -> Image:
    """The image in *directory*; raises InvalidMachineFile with every error of its manifest."""
    file = str(FilePath(directory) / MANIFEST)
    report = Report(file, read(read_text(file, "image manifest")))
    section = report.section(ImageSection, ())
    if section is None or not isinstance(report.document.data, dict):
        raise report.error()
    name = FilePath(directory).name
    if section.name is not None and section.name != name:
        report.problem(("name",), f"got {section.name!r}; allowed: {name!r}, the name of its directory")
    if section.api_version is None and ("apiVersion",) not in report.document.values:
        report.problem((), "key 'apiVersion' is missing; write 'apiVersion: popnet/v1'")
    try:
        defaults = cmdline.parse(section.append)
    except ValueError as error:
        report.problem(("append",), str(error))
    else:
        own = BootParameters(
            pci_flags=defaults.pci_flags,
            quiet=defaults.quiet,
            debug=defaults.debug,
            loglevel=defaults.loglevel,
            rest=defaults.rest,
            arguments=defaults.arguments,
        )
        if defaults != own:
            text = "CPUs, memory, devices, terminals, names and init belong to kernels, or have keys"
            report.problem(("append",), text)
    source = _source(section, FilePath(directory), report)
    if report.lines:
        raise report.error()
    return Image(
        name=name,
        kind=section.kind,
        root=section.root,
        init=section.init,
        ssh=section.ssh,
        ttys=section.ttys,
        programs=section.programs,
        append=section.append,
        path=directory,
        source=source,
        sha256=section.sha256,
        origin=section.origin,
        description=section.description,
        isolated=section.isolated,
        files=section.files,
    )


def _source(section: ImageSection, directory: FilePath, report: Report) -> str:
    """Where the root of an image comes from, or what is wrong with that in its manifest."""
    if section.root not in SOURCED:
        for key in ("source", "sha256"):
            if getattr(section, key) is not None:
                kinds = ", ".join(SOURCED)
                report.problem((key,), f"only for a root that is one of {kinds}; this one is {section.root}")
    elif section.source is None:
        if ("source",) not in report.document.values:
            text = f"{section.root} needs the key 'source': the path of the {section.root}"
            report.problem(("root",), text)
    else:
        path = (directory / section.source).absolute()
        if problem := source_problem(section.root, path):
            report.problem(("source",), f"{path}: {problem}")
        if section.sha256 is not None and section.root == "directory":
            report.problem(("sha256",), "a directory has no digest of its own; leave this key out")
        return str(path)
    if section.programs and section.root != "ramdisk":
        report.problem(("programs",), f"only for a ramdisk; this root is {section.root}")
    return ""


def schema(of_image: bool = False) -> dict[str, Any]:
    """The JSON Schema of machine files, or of image manifests."""
    return image_schema() if of_image else json_schema()


def _gateway(report: Report) -> GatewaySpec | None:
    """The gateway that the file asks for."""
    path = ("gateway",)
    if path not in report.document.values:
        return None
    section = report.section(GatewaySection, path)
    if section is None:
        return None
    if section.listen is None:
        if (*path, "listen") not in report.document.values:
            report.problem(path, f"key 'listen' is missing; allowed: {LISTEN_ALLOWED}")
        return None
    if not section.listen.startswith("/"):
        try:
            tcp_address(section.listen, section.public, "'public: true' beside it")
        except ValueError as error:
            report.problem((*path, "listen"), str(error))
    return GatewaySpec(section.listen, section.authorized_keys, section.public)


def _images(
    sections: Mapping[str, KernelSection], image_path: Sequence[str], report: Report
) -> dict[str, Image]:
    """The images that *sections* name, as far as they are found and right."""
    found = find_images(image_path)
    images: dict[str, Image] = {}
    for name, section in sections.items():
        path = ("kernels", name, "image")
        if section.image in images:
            continue
        directory = found.get(section.image)
        if "/" in section.image:
            directory = str(FilePath(report.file).parent / section.image)
        if directory is not None:
            try:
                images[section.image] = load_image(directory)
            except InvalidMachineFile as error:
                report.foreign(path, str(error))
        else:
            places = ", ".join(image_path) or "no directory"
            text = f"no image {section.image!r}{suggestion(section.image, found)}; looked in {places}"
            report.problem(path, text)
    by_name: dict[str, str] = {}
    for key, image in images.items():
        if by_name.setdefault(image.name, image.path) != image.path:
            path = next(("kernels", name, "image") for name, one in sections.items() if one.image == key)
            report.problem(path, f"another image is called {image.name!r} too ({by_name[image.name]})")
    return images


if __name__ == "__main__":
    print(json.dumps(schema("--image" in sys.argv), indent=2))
