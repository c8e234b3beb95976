"""Capture filters in the language of tcpdump, compiled by libpcap, which is loaded when the first one is.

A filter becomes a program of the classic BPF machine, and libpcap's `bpf_filter` runs it: the frame pump,
native code, calls that function by its address for each frame, and Python is not asked.
"""

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_uint, c_uint32, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Final

from popnet.core.errors import PopnetError, Refused, Unavailable
from popnet.core.limits import FRAME_SIZE_MAX

FILTER_LENGTH_MAX: Final = 4096
"""Letters of a filter: longer ones compile slowly, and the daemon has other things to do."""

DLT_EN10MB: Final = 1
INSTRUCTION_SIZE: Final = 8

_LIBRARIES: Final = (
    "libpcap.so.0.8",
    "libpcap.so.1",
    "libpcap.so",
)  # Debian's name, the others', a developer's
_OPTIMISE: Final = 1
_NETMASK_UNKNOWN: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class CompiledFilter:
    """A filter that any native code can run.

    Attributes:
        program: `struct bpf_insn` of pcap/bpf.h, 8 bytes each, in the host's byte order. function_address:
        of `u_int bpf_filter(const struct bpf_insn *, const u_char *frame, u_int length, u_int
            kept)`, which returns 0 for a frame that does not match; good until the process ends.
    """

    program: bytes
    function_address: int

    def matches(self, frame: bytes) -> bool:
        """Whether *frame*, from its Ethernet header on, passes: for tests and fakes."""
        prototype = ctypes.CFUNCTYPE(c_uint, c_char_p, c_char_p, c_uint, c_uint)
        kept = prototype(self.function_address)(self.program, frame, len(frame), len(frame))
        return bool(kept)


def compile_filter(text: str, snap_length: int) -> CompiledFilter:
    """Compile *text* for Ethernet frames; a blank one matches every frame.

    Names of hosts are looked up, so it may take as long as a look-up takes.

    Raises:
        Refused: *text* is no filter; the message holds libpcap's own.
        Unavailable: there is no libpcap on this host.
    """
    if len(text) > FILTER_LENGTH_MAX:
        raise Refused(f"the filter has {len(text)} letters; at most {FILTER_LENGTH_MAX} are allowed")
    if "\0" in text:
        raise Refused(f"filter {text!r}: it contains a zero byte")
    pcap = _libpcap()
    handle = c_void_p(pcap.pcap_open_dead(DLT_EN10MB, snap_length))
    if not handle:
        raise MemoryError
    try:
        program = _Program()
        if (
            pcap.pcap_compile(
                handle, byref(program), text.encode(errors="replace"), _OPTIMISE, _NETMASK_UNKNOWN
            )
            != 0
        ):
            words = pcap.pcap_geterr(handle).decode(errors="replace")
            raise Refused(
                f"filter {text!r}: {words}", "Filters are written as for tcpdump: see pcap-filter(7)."
            )
        instructions = ctypes.string_at(program.instructions, program.count * INSTRUCTION_SIZE)
        pcap.pcap_freecode(byref(program))
    finally:
        pcap.pcap_close(handle)
    address = ctypes.cast(pcap.bpf_filter, c_void_p).value
    assert address is not None
    return CompiledFilter(instructions, address)


def match_problem(text: str) -> str | None:
    """What is wrong with *text* as a filter; None: nothing."""
    try:
        compile_filter(text, FRAME_SIZE_MAX)
    except PopnetError as error:
        return str(error)
    return None


class _Program(ctypes.Structure):
    """struct bpf_program."""

    _fields_ = [("count", c_uint), ("instructions", c_void_p)]


@cache
def _libpcap() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            pcap = ctypes.CDLL(name)
        except OSError:
            continue
        pcap.pcap_open_dead.restype = c_void_p
        pcap.pcap_open_dead.argtypes = (c_int, c_int)
        pcap.pcap_close.argtypes = (c_void_p,)
        pcap.pcap_compile.argtypes = (c_void_p, POINTER(_Program), c_char_p, c_int, c_uint32)
        pcap.pcap_freecode.argtypes = (POINTER(_Program),)
        pcap.pcap_geterr.restype = c_char_p
        pcap.pcap_geterr.argtypes = (c_void_p,)
        return pcap
    raise Unavailable(
        "capture filters need libpcap, which this host does not have",
        "Install it (`apt install libpcap0.8`, `dnf install libpcap`), or capture without a filter.",
    )
