"""The scenarios of `make chaos` are found by name and say what they show."""

from __future__ import annotations

import importlib

from tests.chaos.__main__ import scenario_names, table_of


def test_each_scenario_says_what_happens_and_can_be_run() -> None:
    for name in scenario_names():
        scenario = importlib.import_module(f"tests.chaos.{name}")
        assert scenario.__doc__, name
        assert callable(scenario.run), name


def test_a_table_has_a_column_for_all_that_any_row_says() -> None:
    rows: list[dict[str, object]] = [{"clients": 500, "lost": 0}, {"clients": 1100, "p99 ms": 12.3456}]
    assert table_of(rows).splitlines() == [
        "| clients | lost | p99 ms |",
        "| --- | --- | --- |",
        "| 500 | 0 |  |",
        "| 1100 |  | 12.35 |",
    ]
