"""What SIGINT (Ctrl-C) and SIGTERM do to a command that starts and follows a run."""

import signal
from types import FrameType, TracebackType
from typing import Self

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Counts the signals that arrive; raises KeyboardInterrupt while there is no run to stop.

        with StopSignals() as signals:
            ray.init()              # a signal raises KeyboardInterrupt here
            signals.install()       # again: Ray has installed a handler of SIGTERM
            signals.are_held = True
            start_run()
            while not over():       # a signal is counted here
                if signals.count > 0:
                    ...

    The handlers call nothing but this: a signal may arrive within a call of Ray.
    """

    def __init__(self) -> None:
        self.count = 0
        self.are_held = False
        """Whether signals are only counted."""

    def __enter__(self) -> Self:
        """Install the handlers."""
        self._before = {number: signal.getsignal(number) for number in NUMBERS}
        self.install()
        return self

    def install(self) -> None:
        """Install the handlers, again if something else has replaced them."""
        for number in NUMBERS:
            signal.signal(number, self._arrived)

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Install the handlers of before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if not self.are_held:
            raise KeyboardInterrupt
