"""What an adaptive ring learns, in plain Python: the oracle of native/wait.h."""

from dataclasses import dataclass

PATIENCE_MAX = 64


@dataclass
class Spin:
    """How long to spin now: `window_ns`, between 0 and `max_ns`."""

    max_ns: int
    window_ns: int = 0
    mean_ns: int = 0
    patience: int = 1
    countdown: int = 1
    forgiving: int = 0

    def __post_init__(self) -> None:
        self.window_ns = self.mean_ns = self.max_ns

    def hit(self, gap_ns: int) -> None:
        """It came while we spun, after *gap_ns*."""
        self.mean_ns += min(gap_ns, self.max_ns) // 8 - self.mean_ns // 8
        self.window_ns = min(self.max_ns, max(4 * self.mean_ns, self.max_ns // 4))
        self.patience = self.countdown = self.forgiving = 1

    def missed(self, _gap_ns: int = 0) -> None:
        """We spun for nothing."""
        if self.forgiving:
            self.forgiving = 0
            return
        self.window_ns //= 2
        if self.window_ns < self.max_ns // 8:
            self.window_ns = 0
            self.countdown = self.patience
            self.patience = min(2 * self.patience, PATIENCE_MAX)

    def slept(self, gap_ns: int) -> None:
        """It came while we slept, *gap_ns* after we began to wait: would a spin have paid?"""
        if self.window_ns or not self.max_ns or gap_ns > 8 * self.max_ns:
            return
        self.countdown -= 1
        if self.countdown == 0:
            self.window_ns = self.mean_ns = self.max_ns
            self.countdown = 1

    def reset(self, max_ns: int) -> None:
        self.__init__(max_ns)  # type: ignore[misc]

    def state(self) -> tuple[int, int, int, int, int, int]:
        spin = self.max_ns, self.window_ns, self.mean_ns
        return *spin, self.patience, self.countdown, self.forgiving
