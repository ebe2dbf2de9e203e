"""A small web server with live charts of runs, for clusters without Grafana.

Ray's dashboard embeds the server at RAY_GRAFANA_HOST in its Metrics page if its health check
responds as Grafana's does. This server does, and plots the panels of the metric catalog from
Prometheus. It only reads, and names itself on every page.
"""

import asyncio
import io
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web
from jinja2 import Environment

from alignment.report.plot_style import COLORS, add_legend, escape_label, new_figure
from cluster.telemetry.metric_catalog import PANELS, Panel

MINUTES = 15.0
STEP_S = 5.0
"""Time between two points of a curve."""
TIMEOUT_S = 10.0
REFRESH_S = 10
OVERVIEW_PANELS = {"24": 0, "41": 1}
"""Number of a panel on Ray's Overview page to the index of the panel in its place."""
HEIGHT_INCHES = 2.6
PAGE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>irlign</title>
<style>
 body { font: 14px sans-serif; margin: 12px; color: #333; background: #fff }
 main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr));
        gap: 10px }
 img { width: 100% } nav a { margin-right: 1em } small { color: #777 }
</style>
<nav><b>irlign</b> <a href="?">all runs</a>
{% for run in runs %}<a href="?run={{ run|urlencode }}">{{ run }}</a>{% endfor %}
<small>plotted by irlign panels from Prometheus, the last {{ minutes }} minutes</small></nav>
{% if not runs %}<meta http-equiv="refresh" content="{{ refresh_s }}">
<p>Prometheus has no run yet. A run appears after its first minute;
if none does, check that Prometheus scrapes this cluster.</p>{% endif %}
<main>{% for index in indices %}<img alt="{{ titles[index] }}"
 src="/panel/{{ index }}.svg?run={{ chosen|urlencode }}">{% endfor %}</main>
<script>
 setInterval(() => document.querySelectorAll("img").forEach(image => {
   const url = new URL(image.src); url.searchParams.set("at", Date.now()); image.src = url }),
   {{ refresh_s }} * 1000)
</script></html>
""")


class Curve(NamedTuple):
    """A time series."""

    label: str
    points: list[tuple[float, float]]
    """Seconds since 1970, and the value."""


def legend(template: str, tags: Mapping[str, str]) -> str:
    """Fill a legend such as {{kind}} {{state}} with a series' tags."""
    for tag, value in tags.items():
        template = template.replace(f"{{{{{tag}}}}}", value)
    return template


def draw(panel: Panel, curves: list[Curve], now: float, minutes: float) -> str:
    """Plot a panel and return it as SVG.

    Args:
        now: end of the time axis, in seconds since 1970.
    """
    figure, axes = new_figure(panel.title, HEIGHT_INCHES)
    for index, curve in enumerate(curves):
        points = list(_with_gaps(curve.points))
        times = [(moment - now) / 60 for moment, _ in points]
        values = [value for _, value in points]
        axes.plot(times, values, label=escape_label(curve.label), color=COLORS[index % len(COLORS)])
    began = min((points[0][0] for _, points in curves if points), default=now)
    axes.set_xlim(max(-minutes, min((began - now) / 60, -1.0)), 0)
    axes.set_xlabel("minutes from now", fontsize=9)
    axes.set_ylabel(panel.unit, fontsize=9)
    if not any(curve.points for curve in curves):
        axes.text(0.5, 0.5, "no data yet", transform=axes.transAxes, ha="center", color="#999999")
    elif len(curves) > 1 or curves[0].label:
        add_legend(figure)
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    return svg.getvalue()


def _with_gaps(points: list[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yield the points, with a NaN where some are missing between two of them."""
    last = points[0][0] if points else 0.0
    for moment, value in points:
        if moment - last > 2.5 * STEP_S:
            yield (last + moment) / 2, math.nan
        yield moment, value
        last = moment


class Panels:
    """The web application for browsers and for Ray's dashboard."""

    def __init__(self, prometheus: str) -> None:
        """Plot from the Prometheus server at this address."""
        self._prometheus = prometheus.rstrip("/")

    def app(self) -> web.Application:
        """Return the web application."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/api/health", self._health),
                web.get("/panel/{index:[0-9]+}.svg", self._panel),
                web.get("/d-solo/{tail:.*}", self._page),
                web.get("/d/{tail:.*}", self._page),
                web.get("/", self._page),
            ]
        )
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        """Respond as Grafana does: Ray's dashboard checks this first."""
        return web.json_response({"database": "ok"})

    async def _page(self, request: web.Request) -> web.Response:
        panel_id = request.query.get("panelId")
        indices = range(len(PANELS)) if panel_id is None else [OVERVIEW_PANELS.get(panel_id, 0)]
        try:
            labels = await self._query("label/run/values", {"match[]": "ray_irlign_step"})
        except aiohttp.ClientError as error:
            raise web.HTTPBadGateway(text=f"Prometheus does not respond: {error}") from error
        text = PAGE.render(
            runs=labels,
            chosen=request.query.get("run", ""),
            indices=indices,
            titles=[panel.title for panel in PANELS],
            minutes=f"{MINUTES:g}",
            refresh_s=REFRESH_S,
        )
        return web.Response(text=text, content_type="text/html")

    async def _panel(self, request: web.Request) -> web.Response:
        index = int(request.match_info["index"])
        if index >= len(PANELS):
            raise web.HTTPNotFound(text=f"no panel {index}; there are {len(PANELS)}, from 0")
        panel, now = PANELS[index], time.time()
        run = request.query.get("run") or ".*"
        try:
            results = await asyncio.gather(
                *(
                    self._series(query.replace("$run", _quoted(run)), template, now)
                    for query, template in panel.queries.items()
                )
            )
        except aiohttp.ClientError as error:
            raise web.HTTPBadGateway(text=f"Prometheus does not respond: {error}") from error
        curves = [curve for result in results for curve in result]
        svg = await asyncio.to_thread(draw, panel, curves, now, MINUTES)
        return web.Response(text=svg, content_type="image/svg+xml")

    async def _series(self, query: str, template: str, now: float) -> list[Curve]:
        window = {
            "query": query,
            "start": str(now - MINUTES * 60),
            "end": str(now),
            "step": str(STEP_S),
        }
        result = await self._query("query_range", window)
        return [
            Curve(
                legend(template, series["metric"]),
                [(float(moment), float(value)) for moment, value in series["values"]],
            )
            for series in result["result"]
        ]

    async def _query(self, what: str, parameters: Mapping[str, str]) -> Any:  # noqa: ANN401  # JSON
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        url = f"{self._prometheus}/api/v1/{what}"
        async with (
            aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
            session.get(url, params=parameters) as response,
        ):
            return (await response.json())["data"]


def _quoted(run: str) -> str:
    """Escape the name of a run, which a browser sends, for a quoted string of PromQL."""
    return run.replace("\\", "\\\\").replace('"', '\\"')


def serve(prometheus: str, host: str, port: int) -> None:
    """Serve until interrupted."""
    web.run_app(Panels(prometheus).app(), host=host, port=port, print=None)
