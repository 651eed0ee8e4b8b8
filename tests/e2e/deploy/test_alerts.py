"""The alerts ask for what the service exposes, fire when they should, and each says what to do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.promql import Exposition
from tests.support.shared import REPOSITORY

PROMETHEUS = REPOSITORY / "deploy/prometheus"

Alerts = list[dict[str, Any]]

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not there: Debian has it in its package prometheus"
)


def test_every_alert_names_what_exists(alerts: Alerts, exposition: Exposition) -> None:
    assert {rule["alert"]: faults for rule in alerts if (faults := exposition.faults(rule["expr"]))} == {}


def test_every_alert_says_how_bad_it_is_and_what_has_happened(alerts: Alerts) -> None:
    for rule in alerts:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]


def test_every_alert_has_a_section_on_the_operator_s_page(alerts: Alerts) -> None:
    page = REPOSITORY.joinpath("docs/operate.md").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in alerts if f"\n### {rule['alert']}\n" not in page] == []


def test_the_example_scrapes_the_job_that_the_alerts_ask_for_and_loads_them() -> None:
    config = YAML(typ="safe").load(PROMETHEUS / "prometheus.yml")
    assert config["rule_files"] == ["alerts.yml"]
    assert [scrape["job_name"] for scrape in config["scrape_configs"]] == ["jetface"]


def test_every_alert_has_a_case_in_which_it_fires(alerts: Alerts) -> None:
    cases = YAML(typ="safe").load(Path(__file__).with_name("alerts.yaml"))["tests"]
    fired = {check["alertname"] for case in cases for check in case["alert_rule_test"] if check["exp_alerts"]}
    assert fired == {rule["alert"] for rule in alerts}


@needs_promtool
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["check", "config", str(PROMETHEUS / "prometheus.yml")], id="config"),
        pytest.param(["test", "rules", str(Path(__file__).with_name("alerts.yaml"))], id="rules"),
    ],
)
def test_promtool_agrees(command: list[str]) -> None:
    done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_finds_no_fault_in_the_exposition(scrape: str) -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=scrape, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
