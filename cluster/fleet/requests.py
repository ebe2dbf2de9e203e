"""Requests to a fleet that no worker has taken yet, in the order in which they came."""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class Request:
    """A call of one method that some worker shall make."""

    method: str
    args: tuple[Any, ...]
    lead_only: bool
    """Only the leading worker may make it."""
    done: asyncio.Future[Any]
    attempts: int = 0
    """How often a worker has taken it."""

    def fail(self, error: Exception) -> None:
        """End it in this error, unless it has ended or whoever asked has gone."""
        if not self.done.done():
            self.done.set_exception(error)


class RequestQueue:
    """Owns the requests that wait. One that was given back is the next to be taken."""

    def __init__(self) -> None:
        self._waiting: deque[Request] = deque()

    def put(self, request: Request) -> None:
        """Let a new request wait."""
        self._waiting.append(request)

    def give_back(self, request: Request) -> None:
        """Let a request wait again that a worker could not finish."""
        self._waiting.appendleft(request)

    def take(self, *, is_lead: bool) -> Request | None:
        """Remove and return the first request that the leading, or another, worker may make."""
        while self._waiting and self._waiting[0].done.done():  # whoever asked has gone
            self._waiting.popleft()
        for request in self._waiting:
            if (is_lead or not request.lead_only) and not request.done.done():
                self._waiting.remove(request)
                return request
        return None

    def fail_all(self, error: Exception) -> None:
        """End every waiting request in this error."""
        while self._waiting:
            self._waiting.popleft().fail(error)
