"""A small dashboard of Ray: the routes of jobs and packages over HTTP, with a token."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def job(job_id, *, status="RUNNING", metadata=None, message="Job is currently running.", start=1):
    return {
        "submission_id": job_id,
        "type": "SUBMISSION",
        "status": status,
        "entrypoint": "./irlign",
        "message": message,
        "metadata": metadata,
        "start_time": start * 1000,
        "end_time": None,
    }


class FakeDashboard:
    """Owns a server on the loopback address, and is the key-value store behind it."""

    def __init__(self, token="secret"):
        self.token, self.jobs, self.packages, self.logs, self.stopped = token, {}, {}, {}, []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.server.fake.respond(self)

            def do_POST(self):
                self.server.fake.respond(self)

            def do_PUT(self):
                self.server.fake.respond(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.fake = self
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, job_id, **fields):
        self.jobs[job_id] = job(job_id, **fields)

    def respond(self, handler):
        content = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        sent = handler.headers.get("Authorization")
        if sent != f"Bearer {self.token}":
            code, body = (403 if sent else 401), b"Unauthorized"
        else:
            code, body = self._response(handler.command, handler.path, content)
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _response(self, method, path, content):
        parts = path.strip("/").split("/")
        if method == "PUT" and parts[:3] == ["api", "packages", "gcs"]:
            self.packages[parts[3]] = content
            return 200, b""
        if path == "/":
            return 200, b"<html></html>"
        if path == "/api/jobs/":
            return 200, json.dumps([*self.jobs.values()]).encode()
        if parts[:2] == ["api", "jobs"] and parts[2] in self.jobs:
            return 200, json.dumps(self._about_job(parts[2], method, parts[3:])).encode()
        return 404, f"Traceback\nKeyError: {path} does not exist".encode()

    def _about_job(self, job_id, method, rest):
        if rest == ["logs"]:
            return {"logs": self.logs.get(job_id, "")}
        if (method, rest) == ("POST", ["stop"]):
            self.stopped.append(job_id)
            return {"stopped": True}
        return self.jobs[job_id]

    # ---- the key-value store, as cluster.jobs.job_record.Store

    def record(self, job_id):
        return self.jobs.get(job_id)

    def put_record(self, job_id, record):
        self.jobs[job_id] = json.loads(json.dumps(record))

    def take_packages(self, prefix):
        names = [name for name in self.packages if name.startswith(prefix)]
        return {name: self.packages.pop(name) for name in names}
