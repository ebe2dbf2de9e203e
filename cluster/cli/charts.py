"""The command irlign panels: live charts without Grafana."""

from typing import Annotated

import typer
from rich.console import Console

from cluster.telemetry.charts_server import serve


def panels(
    prometheus: Annotated[
        str, typer.Option(help="Address of the Prometheus that scrapes the cluster.")
    ] = "http://127.0.0.1:9090",
    host: Annotated[str, typer.Option(help="On which to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
) -> None:
    """Serve live charts of the runs, where there is no Grafana; Ray's dashboard shows them too."""
    url = f"http://{host}:{port}"
    Console(soft_wrap=True, highlight=False).print(
        f"Charts at {url}; for Ray's dashboard start the head with RAY_GRAFANA_HOST={url} "
        f"RAY_PROMETHEUS_HOST={prometheus}"
    )
    serve(prometheus, host, port)
