"""Numbers as reports and tables write them."""

from collections.abc import Mapping
from typing import Any


def format_duration(seconds: float) -> str:
    """Format a duration by its two largest units, such as 2 h 05 min; 3 digits below a minute."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{seconds:.3g} s"


def format_interval(interval: Mapping[str, Any]) -> str:
    """Format a mean and the ends of its 95% interval, such as 0.750 (0.500 to 1.000)."""
    return f"{interval['mean']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
