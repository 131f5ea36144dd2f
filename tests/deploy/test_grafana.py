"""The Grafana dashboard: up to date, and by the rules of Grafana's dashboard-linter, which are in Go, as asserts."""

from __future__ import annotations

import json
import re
from typing import Any

import promql_parser
import pytest
import yaml

from deploy.grafana.make import FILE, make
from leader.web.metrics import Metrics

BOARD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = BOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
#: What Grafana puts in the place of its variables, as far as a parser must know it.
FILLED = {"$__rate_interval": "1m", "$job": ".+", "$instance": ".+"}


def filled(query: str) -> str:
    for name, value in FILLED.items():
        query = query.replace(name, value)
    return query


def test_the_dashboard_is_what_its_generator_writes() -> None:
    assert FILE.read_text(encoding="utf-8") == make(), "run: python -m deploy.grafana.make"


def test_each_panel_says_what_it_shows_in_which_unit_and_from_where() -> None:
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "$datasource"}
        assert panel["targets"]
        assert all(target["datasource"]["uid"] == "$datasource" for target in panel["targets"])
        assert all(target["legendFormat"] for target in panel["targets"])
    assert len({panel["title"] for panel in PANELS}) == len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_no_panel_covers_another() -> None:
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in PANELS)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_parses_and_looks_only_at_the_chosen_leaders(query: str) -> None:
    promql_parser.parse(filled(query))
    selectors = re.findall(r"\w+(\{[^}]*\})", query)
    assert selectors
    assert set(selectors) == {'{job=~"$job", instance=~"$instance"}'}


@pytest.mark.parametrize("query", QUERIES)
def test_counters_are_shown_as_rates_over_the_interval_that_fits(query: str) -> None:
    counters = re.findall(r"\w+(?:_total|_bucket)\{", query)
    assert len(counters) == len(
        re.findall(r"rate\(\w+(?:_total|_bucket)\{[^}]*\}\[\$__rate_interval\]\)", query)
    )


def test_every_metric_of_the_queries_is_one_that_a_leader_has() -> None:
    known = set(re.findall(r"^# HELP (\w+)", Metrics(1).write()[0].decode(), re.MULTILINE))
    known |= {f"flockstep_{name}" for name in ("training_loss", "last_commit_timestamp_seconds")}
    known |= {"flockstep_privacy_epsilon"}
    asked = {re.sub("_bucket$", "", name) for query in QUERIES for name in re.findall(r"(\w+)\{", query)}
    assert asked <= known


def test_leaders_are_chosen_at_the_top_and_a_provisioned_dashboard_is_not_edited() -> None:
    assert list(VARIABLES) == ["datasource", "job", "instance"]
    assert VARIABLES["datasource"]["label"] == "Data source"
    assert VARIABLES["datasource"]["query"] == "prometheus"
    for name in ("job", "instance"):
        variable = VARIABLES[name]
        assert variable["label"] == name.capitalize()
        assert variable["datasource"]["uid"] == "$datasource"
        assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ".+")
        assert variable["refresh"] == 2  # when the time range changes
        selector = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"])
        assert selector is not None
        promql_parser.parse(filled(selector[1]))
    assert BOARD["editable"] is False


def test_the_provisioning_files_name_what_there_is() -> None:
    folder = FILE.parent / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources/flockstep.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    scrape = yaml.safe_load((FILE.parents[1] / "prometheus/prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scrape["scrape_interval"]
    (provider,) = yaml.safe_load((folder / "dashboards/flockstep.yml").read_text())["providers"]
    assert provider["type"] == "file"
