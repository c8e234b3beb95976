"""Where the headers for programs in C are: popnet_messages.h and popnet_link.h."""

from pathlib import Path


def include_dir() -> Path:
    """What a C compiler's -I takes, in a checkout as in an installed package."""
    return Path(__file__).parent / "include"
