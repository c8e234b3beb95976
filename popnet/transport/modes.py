"""How to wait at a ring."""

from typing import Final, Literal

Mode = Literal["poll", "adaptive", "interrupt"]
"""Look all the time, for a whole core; look for a learnt while, then sleep; sleep at once."""

DEFAULT_MODE: Final[Mode] = "adaptive"

SPIN_MAX_US: Final = 20
"""The longest an adaptive ring spins before it sleeps. Who owns less than a core takes 0: never."""
