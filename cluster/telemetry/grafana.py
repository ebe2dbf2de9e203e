"""The panels of cluster/telemetry/metric_catalog.py as a dashboard that Grafana loads."""

import json
from typing import Any

from cluster.telemetry.metric_catalog import PANELS, Panel

UID = "irlign"
WIDTH, HEIGHT, COLUMNS = 12, 8, 2
"""Of a panel, in Grafana's units: a page is 24 wide."""
UNITS = {"s": "s", "share": "percentunit"}
"""Grafana's names of units that it knows."""
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """Return the dashboard, as Grafana's provisioning takes it."""
    return {
        "uid": UID,
        "title": "irlign",
        "tags": ["irlign"],
        "timezone": "browser",
        "refresh": "10s",
        "schemaVersion": 38,
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": _variables()},
        "panels": [_panel(index, panel) for index, panel in enumerate(PANELS)],
    }


def _variables() -> list[dict[str, Any]]:
    runs = {"query": "label_values(ray_irlign_step, run)", "refId": "runs"}
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        {
            "name": "run",
            "type": "query",
            "datasource": DATASOURCE,
            "query": runs,
            "refresh": 2,
            "includeAll": True,
            "allValue": ".*",
            "multi": True,
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(index, COLUMNS)
    targets = [
        {"expr": query, "legendFormat": legend, "refId": chr(ord("A") + number)}
        for number, (query, legend) in enumerate(panel.queries.items())
    ]
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": UNITS.get(panel.unit, "none")}, "overrides": []},
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
    }


def as_text() -> str:
    """Return the dashboard as deploy/dashboards holds it."""
    return json.dumps(dashboard(), indent=1) + "\n"
