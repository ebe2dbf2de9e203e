"""One worker somewhere, as the fleet that owns it sees it."""

from typing import Any, Protocol

READY = "ready"
"""The method that every worker answers once it has started."""


class WorkerLostError(RuntimeError):
    """The worker's process is gone, or has never come up."""


class Handle(Protocol):
    """One worker somewhere. Ray's actor in production, a plain object in tests."""

    async def placed(self) -> None:
        """Wait until the worker has a process. Raises WorkerLostError if it will have none."""
        ...

    async def call(self, method: str, *args: Any) -> Any:  # noqa: ANN401
        """Call a method. Raises WorkerLostError if the worker is gone, else what it raises."""
        ...

    async def leave(self) -> None:
        """Let the worker end by itself."""
        ...

    def kill(self) -> None:
        """End the worker now. Never raises."""
        ...
