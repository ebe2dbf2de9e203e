"""Names of a run's actors on a cluster."""

DRIVER = "driver"
"""The driver's name in its run's namespace."""
PREFIX = "irlign-"


def namespace(run: str) -> str:
    """Return the Ray namespace of a run, which separates its actors from those of other runs."""
    return PREFIX + run


def run_of(namespace: str) -> str:
    """Return the run whose namespace this is."""
    return namespace.removeprefix(PREFIX)
