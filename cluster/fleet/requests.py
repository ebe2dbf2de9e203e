"""Requests to a fleet that no worker has taken yet, in the order in which they were made."""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class Request:
    """A method call that one worker of a fleet is to make."""

    method: str
    args: tuple[Any, ...]
    lead_only: bool
    """Only the leading worker may take it."""
    done: asyncio.Future[Any]
    """Its result; cancelled when the caller no longer waits for it."""
    attempts: int = 0
    """Number of times that a worker has taken it."""

    def fail(self, error: Exception) -> None:
        """End the request with this error, unless it is done or cancelled."""
        if not self.done.done():
            self.done.set_exception(error)


class RequestQueue:
    """First in, first out, except that a request to be retried goes to the front."""

    def __init__(self) -> None:
        self._waiting: deque[Request] = deque()

    def put(self, request: Request) -> None:
        """Add a new request."""
        self._waiting.append(request)

    def put_back(self, request: Request) -> None:
        """Add a request that a worker could not finish, in front of all others."""
        self._waiting.appendleft(request)

    def take(self, *, is_lead: bool) -> Request | None:
        """Remove and return the first request that the worker may take."""
        while self._waiting and self._waiting[0].done.done():  # cancelled by its caller
            self._waiting.popleft()
        for request in self._waiting:
            if (is_lead or not request.lead_only) and not request.done.done():
                self._waiting.remove(request)
                return request
        return None

    def fail_all(self, error: Exception) -> None:
        """End every waiting request with this error."""
        while self._waiting:
            self._waiting.popleft().fail(error)
