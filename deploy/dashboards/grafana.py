"""Prints the panels of cluster/telemetry/metric_catalog.py as a dashboard of Grafana.

Run `python -m deploy.dashboards.grafana > deploy/dashboards/irlign_grafana_dashboard.json` after a
change of the panels; a test compares the two.
"""

import json
import sys
from typing import Any

from cluster.telemetry.metric_catalog import PANELS, Panel

UID = "irlign"
WIDTH, HEIGHT, COLUMNS = 12, 8, 2
"""Of a panel, in units of which a page of Grafana is 24 wide."""
UNITS = {"s": "s", "share": "percentunit"}
"""Unit of a panel to Grafana's name of it."""
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """Return the dashboard in the format of Grafana's provisioning."""
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
    """Return the content of irlign_grafana_dashboard.json."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_text())
