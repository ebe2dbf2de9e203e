"""The light panel server, against a small Prometheus of the test's own."""

import json
import re
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from cluster.telemetry.charts_server import OVERVIEW_PANELS, Curve, Panels, draw, legend
from cluster.telemetry.metric_catalog import PANELS
from deploy.dashboards.grafana import as_text, dashboard

ROOT = Path(__file__).parents[3]


class Prometheus:
    """Knows two runs, and remembers what it was asked."""

    def __init__(self):
        self.queries = []

    async def values(self, _request):
        return web.json_response({"status": "success", "data": ["a", "b & c"]})

    async def query_range(self, request):
        self.queries.append(request.query["query"])
        tags = {"kind": "rollout", "state": "serving"}
        series = {"metric": tags, "values": [[float(request.query["end"]) - 60, "3"]]}
        return web.json_response({"status": "success", "data": {"result": [series]}})


@pytest.fixture
async def prometheus():
    answers = Prometheus()
    app = web.Application()
    app.router.add_get("/api/v1/label/run/values", answers.values)
    app.router.add_get("/api/v1/query_range", answers.query_range)
    async with TestServer(app) as server:
        answers.address = str(server.make_url("/"))
        yield answers


@pytest.fixture
async def browser(prometheus):
    async with TestClient(TestServer(Panels(prometheus.address).app())) as client:
        yield client


async def test_rays_dashboard_takes_it_for_grafana(browser):
    answer = await browser.get("/api/health")
    assert (answer.status, (await answer.json())["database"]) == (200, "ok")


async def test_the_page_of_a_dashboard_shows_every_panel_and_every_run(browser):
    page = await (await browser.get("/d/rayDefaultDashboard/?orgId=1&kiosk=1")).text()
    assert page.count("<img") == len(PANELS)
    assert all(f'alt="{panel.title}"' in page for panel in PANELS)
    assert '<a href="?run=a">a</a>' in page
    assert '<a href="?run=b%20%26%20c">b &amp; c</a>' in page


@pytest.mark.parametrize("panel_id", OVERVIEW_PANELS)
async def test_the_overview_gets_one_panel_for_each_that_it_asks_for(browser, panel_id):
    page = await (await browser.get(f"/d-solo/x/default-dashboard?panelId={panel_id}")).text()
    assert page.count("<img") == 1
    assert f"/panel/{OVERVIEW_PANELS[panel_id]}.svg" in page


async def test_a_panel_is_asked_of_the_chosen_run_alone(browser, prometheus):
    answer = await browser.get("/panel/1.svg", params={"run": 'a"} or vector(1) #\\'})
    assert answer.content_type == "image/svg+xml"
    assert "<svg" in await answer.text()
    assert prometheus.queries == [
        'ray_irlign_workers{run=~"a\\"} or vector(1) #\\\\"} > 0',
    ]


async def test_a_panel_that_is_not_there_and_a_prometheus_that_is_not_are_told(browser):
    assert (await browser.get(f"/panel/{len(PANELS)}.svg")).status == 404
    async with TestClient(TestServer(Panels("http://127.0.0.1:9").app())) as lonely:
        answer = await lonely.get("/")
        assert answer.status == 502
        assert "Prometheus does not respond" in await answer.text()


def test_a_legend_is_filled_with_tags():
    assert legend("{{kind}} {{state}}", {"kind": "rollout", "state": "x"}) == "rollout x"


def test_a_curve_stands_where_its_values_are():
    panel = PANELS[1]
    empty = draw(panel, [], 1000.0, 15.0)
    assert "no data yet" in empty
    drawn = draw(panel, [Curve("rollout", [(400.0, 1.0), (405.0, 3.0)])], 1000.0, 15.0)
    assert "no data yet" not in drawn
    assert "<!-- rollout -->" in drawn  # matplotlib notes each text beside its outlines
    assert "<!-- \N{MINUS SIGN}10 -->" in drawn
    assert "<!-- \N{MINUS SIGN}14 -->" not in drawn


def test_a_curve_is_not_drawn_where_nothing_was_measured():
    def strokes(*moments):
        drawn = draw(PANELS[1], [Curve("rollout", [(m, 1.0) for m in moments])], 1000.0, 15.0)
        (line,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: #0072b2', drawn)[:1]
        return line.count("M ")

    assert strokes(985.0, 990.0, 995.0) == 1
    assert strokes(900.0, 905.0, 990.0, 995.0) == 2


def test_grafana_gets_every_panel_once_and_the_file_is_what_is_made_here():
    made = dashboard()
    assert [panel["title"] for panel in made["panels"]] == [panel.title for panel in PANELS]
    places = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in made["panels"]}
    assert len(places) == len({panel["id"] for panel in made["panels"]}) == len(PANELS)
    exprs = [target["expr"] for panel in made["panels"] for target in panel["targets"]]
    assert exprs == [query for panel in PANELS for query in panel.queries]
    path = ROOT / "deploy" / "dashboards" / "irlign_grafana_dashboard.json"
    assert path.read_text() == as_text(), "run deploy/dashboards/grafana.py"
    assert json.loads(path.read_text())["uid"] == "irlign"
