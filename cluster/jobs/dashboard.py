"""Ray's dashboard over HTTP, with Ray's token.

The commands about runs use plain HTTP because importing Ray takes longer than all their requests.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

from actors.errors import InvalidInputError

ADDRESS = "RAY_API_SERVER_ADDRESS"
"""Environment variable of Ray with the address of the dashboard."""
LOCAL = "http://127.0.0.1:8265"
RESPONSE_S = 30.0
UNAUTHORIZED, FORBIDDEN = 401, 403


def dashboard_address(address: str | None) -> str:
    """Return the given address of a dashboard, or that of the environment or of this machine."""
    return (address or os.environ.get(ADDRESS) or LOCAL).rstrip("/")


def read_token() -> str | None:
    """Return the token from the places where Ray looks for it, or None."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else None


class Dashboard:
    """The HTTP interface of a cluster's dashboard.

    Its methods raise InvalidInputError if the dashboard does not respond, refuses the token or
    reports an error.
    """

    def __init__(self, address: str | None = None, *, timeout_s: float = RESPONSE_S) -> None:
        """Use a dashboard, without a request yet.

        Args:
            address: such as http://head:8265; None reads the environment.
            timeout_s: time for each response.
        """
        self.url = dashboard_address(address)
        if not self.url.startswith(("http://", "https://")):
            raise InvalidInputError(
                f"--address {self.url}: not the address of a dashboard, such as {LOCAL}"
            )
        self._token, self._timeout_s = read_token(), timeout_s

    @property
    def headers(self) -> dict[str, str]:
        """Headers that carry the token, if there is one."""
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def get(self, path: str) -> Any:  # noqa: ANN401  # JSON
        """Return the JSON value at a path."""
        return self._json(path, self._request("GET", path))

    def post(self, path: str) -> Any:  # noqa: ANN401  # JSON
        """Post nothing to a path, and return the JSON value of the response."""
        return self._json(path, self._request("POST", path, b""))

    def put(self, path: str, content: bytes) -> None:
        """Put bytes to a path."""
        self._request("PUT", path, content)

    def follow(self, path: str) -> Iterator[str]:
        """Yield the text messages of a web socket until the dashboard closes it."""
        import asyncio  # noqa: PLC0415 - most commands need no web socket

        loop = asyncio.new_event_loop()
        messages = self._messages(path)
        try:
            while (message := loop.run_until_complete(anext(messages, None))) is not None:
                yield message
        finally:
            loop.run_until_complete(messages.aclose())
            loop.close()

    async def _messages(self, path: str) -> AsyncGenerator[str, None]:
        import aiohttp  # noqa: PLC0415 - as in follow

        try:
            async with (
                aiohttp.ClientSession(headers=self.headers) as session,
                session.ws_connect(self.url + path) as socket,
            ):
                async for message in socket:
                    if message.type == aiohttp.WSMsgType.TEXT:
                        yield message.data
        except aiohttp.WSServerHandshakeError as error:
            raise InvalidInputError(self._refusal(path, error.status, error.message)) from error
        except aiohttp.ClientConnectorError as error:
            raise InvalidInputError(self._silence()) from error
        except aiohttp.ClientError as error:
            raise InvalidInputError(f"{self.url} ended the connection: {error}") from error

    def _request(self, method: str, path: str, content: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, content, self.headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                body: bytes = response.read()
                return body
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise InvalidInputError(self._refusal(path, error.code, text)) from error
        except OSError as error:
            raise InvalidInputError(self._silence()) from error

    def _silence(self) -> str:
        return (
            f"no Ray dashboard responds at {self.url}; start a cluster with `ray start --head`, or "
            f"give the address of its dashboard by --address or {ADDRESS}"
        )

    def _refusal(self, path: str, code: int, text: str) -> str:
        if code in (UNAUTHORIZED, FORBIDDEN):
            problem = "refused the token" if self._token else "requires a token"
            return (
                f"the cluster at {self.url} {problem}; set RAY_AUTH_TOKEN, or copy "
                "~/.ray/auth_token from the head node"
            )
        last_line = text.strip().rpartition("\n")[2]
        return f"{self.url}{path}: error {code} of Ray's dashboard: {last_line}"

    def _json(self, path: str, body: bytes) -> Any:  # noqa: ANN401
        try:
            return json.loads(body)
        except ValueError as error:
            raise InvalidInputError(
                f"{self.url}{path} sent no JSON, so it is no Ray dashboard; give the address of one"
                f" by --address or {ADDRESS}"
            ) from error
