import os
import signal

import pytest

from cluster.jobs.stop_signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_until_it_is_held_and_is_counted_then(number):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        signal.signal(number, signal.SIG_IGN)  # as Ray does when it starts
        signals.install()
        signals.are_held = True
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert signals.count == 3
    assert signal.getsignal(number) is before
