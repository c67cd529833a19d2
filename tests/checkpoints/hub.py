"""A hub of models on the loopback address, which answers what huggingface_hub asks."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """Models by owner/name as {path: bytes}, the commit of each revision, and every path that was asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.models: dict[str, dict[str, bytes]] = {}
        self.revisions: dict[str, dict[str, str]] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, model: str, folder: Path, commit: str) -> None:
        """Serve the files of a folder as the main branch of a model."""
        files = (file for file in folder.rglob("*") if file.is_file())
        self.models[model] = {str(file.relative_to(folder)): file.read_bytes() for file in files}
        self.revisions[model] = {"main": commit, commit: commit}

    def served(self) -> set[str]:
        """The files that were handed out."""
        return {path.split("/resolve/")[1].partition("/")[2] for path in self.asked if "/resolve/" in path}


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).removeprefix("/")
        self.server.asked.append(f"{self.command} {path}")
        parts = path.removeprefix("api/models/").split("/")
        model, rest = "/".join(parts[:2]), parts[2:]
        if model in self.server.gated:
            return self.lacking(403, "GatedRepo")
        if model not in self.server.models:
            return self.lacking(404, "RepoNotFound")
        commit = self.server.revisions[model].get(rest[1] if rest else "main")
        if commit is None:
            return self.lacking(404, "RevisionNotFound")
        files = self.server.models[model]
        if not path.startswith("api/"):
            return self.file(files.get("/".join(rest[2:])), commit)
        if rest[:1] == ["tree"]:
            return self.json([entry(name, data) for name, data in files.items()])
        return self.json({"id": model, "sha": commit, "siblings": [{"rfilename": name} for name in files]})

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def file(self, data: bytes | None, commit: str) -> None:
        if data is None:
            return self.lacking(404, "EntryNotFound")
        return self.answer(200, data, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def lacking(self, status: int, code: str) -> None:
        self.answer(status, b"", {"X-Error-Code": code})

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


def entry(name: str, data: bytes) -> dict:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers while this is entered."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
