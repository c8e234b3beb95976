"""Filters compiled by libpcap, which runs them too: the address of its bpf_filter() goes to the pump."""

import ctypes

DLT_EN10MB = 1
NETMASK_UNKNOWN = 0xFFFFFFFF


class Program(ctypes.Structure):
    """struct bpf_program of pcap/bpf.h."""

    _fields_ = [("length", ctypes.c_uint), ("instructions", ctypes.c_void_p)]


def compile_filter(text: str) -> tuple[bytes, int]:
    """*text* compiled for Ethernet: the instructions, and the address of bpf_filter()."""
    library = ctypes.CDLL("libpcap.so.0.8")
    library.pcap_open_dead.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(library.pcap_open_dead(DLT_EN10MB, 65550))
    program = Program()
    if library.pcap_compile(handle, ctypes.byref(program), text.encode(), 1, ctypes.c_uint(NETMASK_UNKNOWN)):
        raise ValueError(text)
    code = ctypes.string_at(program.instructions, program.length * 8)
    library.pcap_freecode(ctypes.byref(program))
    library.pcap_close(handle)
    return code, ctypes.cast(library.bpf_filter, ctypes.c_void_p).value or 0
