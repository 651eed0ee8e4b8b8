"""The operator's page names every metric, and only settings and metrics that exist."""

from __future__ import annotations

import os
import re

from opentelemetry.sdk import environment_variables
from prometheus_client import Counter, Gauge, Info
from ruamel.yaml import YAML

from jetface.metrics import DeviceCollector, LoopHistogram, Metrics
from jetface.settings import Settings, variable_names
from tests.support.fakes import Harness
from tests.support.promql import Exposition
from tests.support.shared import REPOSITORY

PAGE = REPOSITORY / "docs/operate.md"

_TABLE = re.compile(r"(?<=<!-- metrics:begin -->\n).*?(?=<!-- metrics:end -->)", re.DOTALL)


def metrics_table() -> str:
    """Write one row a metric, in the order they are declared."""
    kinds: dict[type, tuple[str, str]] = {
        Counter: ("counter", "_total"), Gauge: ("gauge", ""), Info: ("info", "_info"),
    }  # fmt: skip
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in Metrics().registry._collector_to_names:
        if isinstance(metric, Counter | Gauge | Info):
            kind, suffix = kinds[type(metric)]
            labels = ", ".join(metric._labelnames) or ("version, commit" if kind == "info" else "")
            rows.append(f"| `{metric._name}{suffix}` | {kind} | {labels} | {metric._documentation} |")
        elif isinstance(metric, LoopHistogram):
            rows.append(f"| `{metric.name}` | histogram | {', '.join(metric.label_names)} | {metric.documentation} |")
        elif isinstance(metric, DeviceCollector):
            rows += [
                f"| `{family.name}` | gauge | {', '.join(family._labelnames)} | {family.documentation} |"
                for family in metric.describe()
            ]
    return "\n".join(rows) + "\n"


def test_the_probes_are_yaml() -> None:
    for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        assert isinstance(YAML(typ="safe").load(block), dict)


def test_the_table_is_what_the_code_declares() -> None:
    """Set UPDATE_SNAPSHOTS=1 to write it anew."""
    page = PAGE.read_text(encoding="utf-8")
    if os.environ.get("UPDATE_SNAPSHOTS"):
        page = _TABLE.sub(lambda _: metrics_table(), page)
        PAGE.write_text(page, encoding="utf-8")
    found = _TABLE.search(page)
    assert found is not None
    assert found[0] == metrics_table()


def test_every_query_on_the_page_names_what_exists(exposition: Exposition) -> None:
    queries = re.findall(r"```promql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert queries
    assert [faults for query in queries if (faults := exposition.faults(query))] == []


def test_every_metric_named_in_passing_exists(exposition: Exposition) -> None:
    words = set(re.findall(r"`((?:jetface|process)_[a-z_]+)`", PAGE.read_text(encoding="utf-8")))
    known = exposition.series_by_name.keys()
    families = known | {name.removesuffix("_bucket") for name in known}
    # No item was dropped in the scrape, and it is of a process that has no parent.
    assert words - families <= {"jetface_dropped_items_total", "jetface_worker_replacements_total"}


def test_every_stage_is_explained(exposition: Exposition) -> None:
    stages = {labels["stage"] for labels in exposition.series_by_name["jetface_stage_seconds_count"]}
    assert {"decode", "serialise"} <= stages
    assert stages <= set(re.findall(r"`([a-z]+)`", PAGE.read_text(encoding="utf-8")))


def test_every_health_route_named_exists() -> None:
    paths = set(re.findall(r"/health(?:/[a-z]+)?\b", PAGE.read_text(encoding="utf-8")))
    assert paths == {path for path in Harness().app.openapi()["paths"] if path.startswith("/health")}


def test_every_setting_named_exists() -> None:
    words = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", PAGE.read_text(encoding="utf-8")))
    ours = {name for field in Settings.model_fields for name in variable_names(field)}
    theirs = {name for name in vars(environment_variables) if name.startswith("OTEL_")}
    assert words - theirs - {"PROMETHEUS_URL", "ORT_DISABLE_TELEMETRY", "CUDA_VISIBLE_DEVICES"} <= ours
