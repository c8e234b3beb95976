"""What to add to the command that starts a container, when `popnet doctor` misses something there."""

from typing import Final

AS_ROOT: Final = "`--user 0 --cap-add SYS_ADMIN`"
"""Root with this one capability needs neither a seccomp profile nor an unmasked /proc."""

NAMESPACES: Final = (
    f"add `--security-opt seccomp=container/seccomp.json` (a file of popnet's source), or {AS_ROOT}."
)


def remedy(inside: str, outside: str) -> str:
    """Both remedies. Which of them is meant, the user knows better than a file that marks containers."""
    return f"{outside} In a container: {inside}"
