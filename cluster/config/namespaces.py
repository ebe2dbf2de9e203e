"""How a run's actors are named on a cluster."""

DRIVER = "driver"
"""The driver's name in its run's namespace."""
PREFIX = "irlign-"


def namespace(run: str) -> str:
    """Return the Ray namespace of a run: its actors never meet another run's."""
    return PREFIX + run


def run_of(namespace: str) -> str:
    """Return the run whose namespace this is."""
    return namespace.removeprefix(PREFIX)
