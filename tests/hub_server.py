"""A server on this machine that answers as the Hugging Face Hub does, for the few questions a download asks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(repositories: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """(address, paths of the files that were fetched) while it runs. repositories: OWNER/NAME -> folder."""
    fetched: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            parts = urlsplit(self.path).path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                self._about("/".join(parts[2:4]), parts[4:])
                return
            repository, file = "/".join(parts[:2]), "/".join(parts[4:])
            path = repositories.get(repository, Path("nowhere")) / file
            if parts[2:3] != ["resolve"] or not path.is_file():
                self._missing()
                return
            content = path.read_bytes()
            if body:
                fetched.append(file)
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self._send(content, headers, body=body)

        def _about(self, repository: str, rest: list[str]) -> None:
            if repository not in repositories:
                self._missing()
                return
            folder = repositories[repository]
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            names = [str(path.relative_to(folder)) for path in files]
            if rest[:1] == ["tree"]:
                content: object = [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": COMMIT}
                    for name, path in zip(names, files, strict=True)
                ]
            else:
                content = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._send(json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _missing(self) -> None:
            self._send(b"{}", {"X-Error-Code": "RepoNotFound"}, status=404)

        def _send(self, content: bytes, headers: dict[str, str], *, status: int = 200, body: bool = True) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body and self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
