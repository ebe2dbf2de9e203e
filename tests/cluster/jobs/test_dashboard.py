import asyncio
import socket
import threading

import pytest
from aiohttp import web

from actors.errors import InvalidInputError
from cluster.jobs.dashboard import Dashboard
from tests.fakes.ray_dashboard import FakeDashboard


@pytest.fixture
def server():
    with FakeDashboard() as server:
        yield server


@pytest.fixture(autouse=True)
def token(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    return monkeypatch


def test_values_pass_with_the_token_of_the_environment(server, token):
    server.add("a-1")
    token.setenv("RAY_API_SERVER_ADDRESS", server.address + "/")
    assert Dashboard().get("/api/jobs/a-1")["submission_id"] == "a-1"
    Dashboard().put("/api/packages/gcs/a.zip", b"content")
    assert server.packages == {"a.zip": b"content"}
    assert Dashboard().post("/api/jobs/a-1/stop") == {"stopped": True}


def test_the_token_is_read_from_rays_file(server, token, tmp_path):
    token.delenv("RAY_AUTH_TOKEN")
    with pytest.raises(InvalidInputError, match=f"{server.address} requires a token; set RAY_AUTH"):
        Dashboard(server.address).get("/api/jobs/")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret\n")
    assert Dashboard(server.address).get("/api/jobs/") == []


def test_a_wrong_token_and_a_wrong_address_are_told_apart(server, token):
    with pytest.raises(InvalidInputError, match="head:8265: not the address of a dashboard, such"):
        Dashboard("head:8265")
    with pytest.raises(InvalidInputError, match="/ sent no JSON, so it is no Ray dashboard; give"):
        Dashboard(server.address).get("/")
    token.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(InvalidInputError, match="refused the token; set RAY_AUTH_TOKEN, or copy"):
        Dashboard(server.address).get("/api/jobs/")


def test_silence_is_an_error_with_the_remedy():
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(InvalidInputError, match=r"no Ray dashboard responds at .*--address or"):
            Dashboard(address, timeout_s=0.1).get("/api/jobs/")
    with pytest.raises(InvalidInputError, match="no Ray dashboard responds"):
        Dashboard(address).get("/api/jobs/")


def test_an_error_of_ray_is_told_by_its_last_line(server):
    with pytest.raises(InvalidInputError, match="error 404 of Ray's dashboard: KeyError: /api/jo"):
        Dashboard(server.address).get("/api/jobs/none")


@pytest.fixture
def log_server():
    """A web socket with two messages, as Ray's tail of a log, and its address."""

    async def tail(request):
        if request.headers.get("Authorization") != "Bearer secret":
            raise web.HTTPForbidden
        messages = web.WebSocketResponse()
        await messages.prepare(request)
        for message in ("step 1\n", "step 2\n"):
            await messages.send_str(message)
        await messages.close()
        return messages

    async def serve():
        app = web.Application()
        app.add_routes([web.get("/tail", tail)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        addresses.append("http://{}:{}".format(*runner.addresses[0]))
        started.set()
        await asyncio.to_thread(finished.wait)
        await runner.cleanup()

    addresses, started, finished = [], threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    started.wait(10)
    yield addresses[0]
    finished.set()
    thread.join()


def test_a_log_is_followed_until_its_end(log_server):
    assert [*Dashboard(log_server).follow("/tail")] == ["step 1\n", "step 2\n"]
    messages = Dashboard(log_server).follow("/tail")
    assert next(messages) == "step 1\n"
    messages.close()  # a reader may leave before the end


def test_a_log_that_cannot_be_followed_is_an_error(log_server, token):
    with pytest.raises(InvalidInputError, match="/none: error 404 of Ray's dashboard"):
        [*Dashboard(log_server).follow("/none")]
    token.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(InvalidInputError, match="refused the token"):
        [*Dashboard(log_server).follow("/tail")]
    with pytest.raises(InvalidInputError, match="no Ray dashboard responds"):
        [*Dashboard("http://127.0.0.1:9").follow("/tail")]
