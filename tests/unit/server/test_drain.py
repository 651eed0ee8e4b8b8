"""The end of a process, under a real uvicorn stopped by real signals."""

from __future__ import annotations

import asyncio
import signal

import pytest

from jetface.errors import ShuttingDownError
from jetface.server.drain import Drain


class TestDrain:
    """The rules themselves, without a server."""

    async def test_refuses_once_begun(self) -> None:
        """After `begin` nobody new is served, and `stop` is called when the last one leaves."""
        stopped = asyncio.Event()
        drain = Drain(10)
        with drain.serving():
            drain.begin(stopped.set, "test")
            assert drain.is_draining
            with pytest.raises(ShuttingDownError), drain.serving():
                pytest.fail("served while draining")
            await asyncio.sleep(0.05)
            assert not stopped.is_set()
            assert drain.num_in_flight == 1
        await asyncio.wait_for(stopped.wait(), 1)

    async def test_expiry_needs_no_callback(self) -> None:
        """A drain without `on_expiry` stops the server when half of a very short grace is over."""
        stopped = asyncio.Event()
        drain = Drain(0.1)
        with drain.serving():
            drain.begin(stopped.set, "test")
            await asyncio.wait_for(stopped.wait(), 1)
            assert drain.num_in_flight == 1

    async def test_without_a_server_signals_stay_as_they_are(self) -> None:
        """Inside a test's lifespan nobody has set a handler, and none is set."""
        before = signal.getsignal(signal.SIGINT)
        with Drain(1).listening():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            assert signal.getsignal(signal.SIGINT) is before

    async def test_handlers_are_given_back(self) -> None:
        """What was taken from the server is returned when the lifespan ends."""
        calls: list[int] = []

        def handler(number: int, _frame: object) -> None:
            calls.append(number)

        before = signal.signal(signal.SIGTERM, handler)
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            drain = Drain(1)
            with drain.listening():
                signal.raise_signal(signal.SIGTERM)
                assert calls == []
                await asyncio.sleep(0.05)
                assert drain.is_draining
                assert calls == [signal.SIGINT]
            assert signal.getsignal(signal.SIGTERM) is handler
            assert signal.getsignal(signal.SIGINT) is interrupt
        finally:
            signal.signal(signal.SIGTERM, before)

    async def test_off_the_main_thread_signals_stay_as_they_are(self) -> None:
        """A server run in a thread has no signals to listen to."""

        def enter() -> bool:
            with Drain(1).listening():
                return True

        assert await asyncio.to_thread(enter)
