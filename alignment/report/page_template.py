"""Rendering of report pages from the templates of this package."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_template(template: str, **values: object) -> str:
    """Render an HTML page; values are escaped unless they are Markup."""
    environment = Environment(
        autoescape=True,
        loader=PackageLoader("alignment.report", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(**values)
