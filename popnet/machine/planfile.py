"""A plan as a machine file, which `popnet validate` takes and `popnet up` boots."""

from collections.abc import Iterator

from popnet.machine.planner import Plan, Share
from popnet.machine.topology import summary
from popnet.machine.units import approximate_size, format_cpus, format_size


def machine_file(plan: Plan, name: str, image: str | None = None, explain: bool = False) -> str:
    """The text of the file; *image* is what all kernels run, with *explain* each has its reasons as
    comments."""
    return "\n".join(_lines(plan, name, image, explain)) + "\n"


def explanation(plan: Plan) -> list[str]:
    """Why each CPU and each range of memory went where it did, one line each."""
    lines = [f"{share.name}: {reason}" for share in plan.shares for reason in share.reasons]
    kept = f"host: {approximate_size(plan.kept_bytes)} of memory are kept back for it"
    return [*lines, kept, *plan.notes]


def _lines(plan: Plan, name: str, image: str | None, explain: bool) -> Iterator[str]:
    yield f"# {plan.policy}: {summary(plan.topology)}"
    if explain:
        yield f"# {approximate_size(plan.kept_bytes)} of memory are kept back for the host"
        yield from (f"# {note}" for note in plan.notes)
    yield "apiVersion: popnet/v1"
    yield f"name: {name}"
    if plan.overcommit:
        yield "machine: {overcommit: true}"
    yield "kernels:"
    for share in plan.shares:
        if explain:
            yield from (f"  # {reason}" for reason in share.reasons)
        yield f"  {share.name}: {{{', '.join(_keys(share, image))}}}"


def _keys(share: Share, image: str | None) -> Iterator[str]:
    if image is not None:
        yield f"image: {image}"
    yield f'cpus: "{format_cpus(share.cpus)}"'
    if share.memory:
        yield f'memmap: "{",".join(map(str, share.memory))}"'
    elif share.memory_bytes is not None:
        yield f"memory: {format_size(share.memory_bytes)}"
