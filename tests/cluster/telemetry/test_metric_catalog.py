"""What is exported is described, and what the dashboards draw is exported."""

import re
from pathlib import Path

import pytest

from cluster.telemetry.metric_catalog import (
    EXPORTED_PREFIX,
    PANELS,
    PREFIX,
    RUN_METRICS,
    STEP_METRICS,
    gauge_name,
)

SOURCES = Path(__file__).parents[3]
EXPORTED = {
    *(gauge_name(name) for name in STEP_METRICS),
    *(name if RUN_METRICS[name].kind == "gauge" else f"{name}_total" for name in RUN_METRICS),
}


def test_names_are_such_that_prometheus_takes_them_and_none_is_used_twice():
    names = [*map(gauge_name, STEP_METRICS), *RUN_METRICS]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(PREFIX + r"[a-z0-9_]+", name) for name in names)


def test_tags_are_few_and_bounded():
    tags = {tag for metric in RUN_METRICS.values() for tag in metric.tags}
    assert tags == {"worker", "kind", "state", "source", "method"}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_every_metric_of_a_panel_is_exported(panel):
    for query in panel.queries:
        names = re.findall(EXPORTED_PREFIX + r"(irlign_\w+)", query)
        assert names
        assert set(names) <= EXPORTED


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_every_tag_of_a_legend_is_one_of_the_metric(panel):
    for query, legend in panel.queries.items():
        (name,) = re.findall(EXPORTED_PREFIX + r"(irlign_\w+?)(?:_total)?\{", query)
        tags = RUN_METRICS[name].tags if name in RUN_METRICS else ()
        assert set(re.findall(r"{{(\w+)}}", legend)) <= set(tags)


def test_the_report_plots_no_metric_that_is_not_exported():
    text = (SOURCES / "alignment" / "report" / "run" / "curves.py").read_text()
    plotted = re.findall(r'"((?:eval|learner|rollout|discriminator|teacher)/\w+)"', text)
    assert plotted
    assert set(plotted) <= set(STEP_METRICS)
