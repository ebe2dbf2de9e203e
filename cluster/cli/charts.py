"""The command irlign panels: live charts without Grafana."""

from typing import Annotated

import typer

from cluster.cli.options import line_console
from cluster.telemetry.charts_server import serve


def panels(
    prometheus: Annotated[
        str, typer.Option(help="Address of the Prometheus server that scrapes the cluster.")
    ] = "http://127.0.0.1:9090",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
) -> None:
    """Serve live charts of all runs where Grafana is not installed.

    They are also shown on the Metrics page of Ray's dashboard if the head node was started with
    RAY_GRAFANA_HOST set to their address. For another port:

        irlign panels --prometheus http://head:9090 --port 3001
    """
    url = f"http://{host}:{port}"
    line_console().print(
        f"Charts are at {url}. To show them in Ray's dashboard, start the head node with "
        f"RAY_GRAFANA_HOST={url} RAY_PROMETHEUS_HOST={prometheus}"
    )
    serve(prometheus, host, port)
