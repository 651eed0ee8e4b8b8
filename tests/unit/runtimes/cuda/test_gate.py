"""Runs beside each other, a capture alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jetface.runtimes.onnx_cuda import CaptureGate

WAIT_S = 30


def test_runs_pass_together() -> None:
    gate, meeting = CaptureGate(), threading.Barrier(3)

    def run() -> int:
        with gate.passing():
            return meeting.wait(WAIT_S)

    with ThreadPoolExecutor(3) as threads:
        assert sorted(threads.map(lambda _: run(), range(3))) == [0, 1, 2]


def test_a_capture_waits_for_runs_and_runs_wait_for_a_capture() -> None:
    gate, entered, leave, order = CaptureGate(), threading.Event(), threading.Event(), []

    def run() -> None:
        with gate.passing():
            entered.set()
            leave.wait(WAIT_S)
            order.append("run")

    def capture() -> None:
        with gate.alone(wait_s=WAIT_S) as is_alone:
            assert is_alone
            order.append("capture")

    def later_run() -> None:
        with gate.passing():
            order.append("later run")

    with ThreadPoolExecutor(3) as threads:
        running = threads.submit(run)
        entered.wait(WAIT_S)
        capturing = threads.submit(capture)
        while not gate._num_waiting:
            pass
        later = threads.submit(later_run)
        leave.set()
        for future in (running, capturing, later):
            future.result(WAIT_S)
    assert order == ["run", "capture", "later run"]


def test_a_capture_gives_way_when_its_patience_ends() -> None:
    gate = CaptureGate()
    with gate.passing(), gate.alone(wait_s=0.01) as is_alone:
        assert not is_alone
    with gate.alone(wait_s=0) as is_alone:
        assert is_alone


def test_no_capture_waits_for_a_model_that_is_opened() -> None:
    gate = CaptureGate()
    with gate.opening():
        started = time.monotonic()
        with gate.alone(wait_s=WAIT_S) as is_alone:
            assert not is_alone
        assert time.monotonic() - started < WAIT_S
    with gate.alone(wait_s=0) as is_alone:
        assert is_alone


def test_a_patient_capture_waits_for_what_is_opened_and_comes_before_what_opens_next() -> None:
    gate, order = CaptureGate(), []

    def capture() -> None:
        with gate.alone(wait_s=WAIT_S, patience_s=WAIT_S) as is_alone:
            assert is_alone
            order.append("capture")

    def open_next() -> None:
        with gate.opening():
            order.append("opened next")

    threads = [threading.Thread(target=work) for work in (capture, open_next)]
    with gate.opening():
        threads[0].start()
        while not gate.is_awaited:
            time.sleep(0.001)
        with gate.passing():
            order.append("run")
        threads[1].start()
        time.sleep(0.02)
        order.append("opened")
    for thread in threads:
        thread.join()
    assert order == ["run", "opened", "capture", "opened next"]


def test_an_error_leaves_the_gate_open() -> None:
    gate = CaptureGate()
    for enter in (gate.passing, gate.opening, lambda: gate.alone(wait_s=WAIT_S)):
        with pytest.raises(RuntimeError), enter():
            raise RuntimeError
    with gate.alone(wait_s=0) as is_alone:
        assert is_alone


def test_many_threads_never_meet_a_capture() -> None:
    gate, lock = CaptureGate(), threading.Lock()
    inside: set[str] = set()

    def work(number: int) -> None:
        for turn in range(20):
            if (number + turn) % 5:
                with gate.passing(), lock:
                    assert "capture" not in inside
                    continue
            with gate.alone(wait_s=WAIT_S) as is_alone:
                assert is_alone
                with lock:
                    assert not inside
                    inside.add("capture")
                with lock:
                    inside.remove("capture")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
