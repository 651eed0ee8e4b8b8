"""The Grafana dashboard asks for what the service exposes, and shows all of it."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import promql_parser
import pytest
from ruamel.yaml import YAML

from jetface.metrics import Metrics
from tests.support.promql import Exposition, selectors
from tests.support.shared import REPOSITORY

GRAFANA = REPOSITORY / "deploy/grafana"

Dashboard = dict[str, Any]


def queries(dashboard: Dashboard) -> list[str]:
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return found + [annotation["expr"] for annotation in dashboard["annotations"]["list"]]


def variable_queries(dashboard: Dashboard) -> list[tuple[str, str]]:
    """Return selector and label of each `label_values(selector, label)`."""
    texts = [v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    parts = [text.removeprefix("label_values(").removesuffix(")").rpartition(", ") for text in texts]
    return [(selector, label) for selector, _, label in parts]


def test_every_query_names_what_exists(dashboard: Dashboard, exposition: Exposition) -> None:
    assert {query: faults for query in queries(dashboard) if (faults := exposition.faults(query))} == {}


def test_every_variable_names_what_exists(dashboard: Dashboard, exposition: Exposition) -> None:
    for selector, label in variable_queries(dashboard):
        assert exposition.faults(f"count by ({label}) ({selector})") == []


def test_every_metric_of_ours_is_on_it(dashboard: Dashboard) -> None:
    asked: set[str] = set()
    for query in queries(dashboard):
        expression = promql_parser.parse(query.replace("$__rate_interval", "1m"))
        asked |= {selector.name or "" for selector in selectors(expression)}
    metrics = Metrics()
    for family in (*metrics.registry.collect(), *metrics.device.describe()):
        if family.name.startswith("jetface_"):
            names = {family.name + suffix for suffix in ("", "_total", "_info", "_bucket", "_sum", "_count")}
            assert names & asked, family.name


def test_panels_have_a_title_a_description_and_a_place_of_their_own(dashboard: Dashboard) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel.get("description") or panel["type"] == "row"
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_above


def test_every_query_asks_the_chosen_source_and_instances(dashboard: Dashboard) -> None:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for query in queries(dashboard):
        for selector in selectors(promql_parser.parse(query.replace("$__rate_interval", "1m"))):
            matched = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
            assert (matched["job"], matched["instance"]) == ("$job", "$instance")


@pytest.mark.parametrize(("folder", "key"), [("dashboards", "providers"), ("datasources", "datasources")])
def test_provisioning_is_what_grafana_reads(folder: str, key: str) -> None:
    files = list(GRAFANA.joinpath("provisioning", folder).glob("*.yaml"))
    assert files
    for file in files:
        content = YAML(typ="safe").load(file)
        assert content["apiVersion"] == 1
        assert content[key]


def test_compose_mounts_what_there_is() -> None:
    services = YAML(typ="safe").load(REPOSITORY / "deploy/compose.monitoring.yaml")["services"]
    mounts = [mount for service in services.values() for mount in service["volumes"] if mount.startswith("./")]
    assert mounts
    for mount in mounts:
        assert REPOSITORY.joinpath("deploy", mount.split(":")[0]).exists(), mount
    (provider,) = YAML(typ="safe").load(GRAFANA / "provisioning/dashboards/jetface.yaml")["providers"]
    folder = provider["options"]["path"]
    assert f"./grafana/jetface.json:{folder}/jetface.json:ro" in services["grafana"]["volumes"]
