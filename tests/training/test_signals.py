"""StopRequest with real signals sent to this process."""

import signal
import threading

import pytest
from accelerate import Accelerator

from ucip_adapt.training import signals
from ucip_adapt.training.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_asks_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        accelerator = Accelerator(cpu=True)
        assert not stop.agreed(accelerator)
        signal.raise_signal(number)
        assert stop.agreed(accelerator)
        assert stop.signal_name == number.name
    assert signal.getsignal(number) is before


def test_second_interrupt_is_immediate_but_repeated_sigterm_is_not(monkeypatch):
    clock = iter([100.0, 109.0, 100.4, 100.6])
    monkeypatch.setattr(signals.time, "monotonic", lambda: next(clock))
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        signal.raise_signal(signal.SIGINT)  # 0.4 s after the first: passed on twice
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_without_the_main_thread_there_are_no_handlers():
    seen = []

    def body():
        with StopRequest() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
