"""A web server on this machine, whose faults can be chosen, and which remembers what it was asked and what it sent."""

from __future__ import annotations

import hashlib
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Exchange:
    """One request and what became of it; ``sent`` counts bytes of the file."""

    path: str
    range: str | None
    if_range: str | None
    status: int = 0
    sent: int = 0


@dataclass
class FileServer:
    """Files by their path, e.g. ``/set.tar.gz``.

    Attributes:
        url: e.g. ``http://127.0.0.1:40001``.
        ranges: whether parts are sent.
        validators: whether answers carry an ETag.
        length: whether answers say how long the file is.
        faults: for the next requests, one each: None for none, a status such as 500, or ``-n`` to cut after n bytes.
        heed_if_range: whether the whole file is sent when it is another than the If-Range of the request.
        hold_after: stop before this byte of the file and keep the connection open, as a slow server does; None: do not.
        exchanges: all requests so far.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    validators: bool = True
    length: bool = True
    faults: list[int | None] = field(default_factory=list)
    heed_if_range: bool = True
    hold_after: int | None = None
    exchanges: list[Exchange] = field(default_factory=list)

    def put(self, name: str, content: bytes) -> str:
        """Offers a file and gives its address."""
        self.files[f"/{name}"] = content
        return f"{self.url}/{name}"


class Listener(ThreadingHTTPServer):
    def handle_error(self, *where: Any) -> None:
        """A client that hangs up is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*where)


@contextmanager
def serving() -> Iterator[FileServer]:
    server = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.close_connection = True
            exchange = Exchange(self.path, self.headers["Range"], self.headers["If-Range"])
            server.exchanges.append(exchange)
            fault = server.faults.pop(0) if server.faults else None
            content = server.files.get(self.path)
            exchange.status = fault if fault and fault > 0 else 404 if content is None else 200
            if exchange.status != 200 or content is None:
                self.send_error(exchange.status)
                return
            etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            start = 0
            if server.ranges and exchange.range and (exchange.if_range in (None, etag) or not server.heed_if_range):
                found = re.fullmatch(r"bytes=(\d+)-", exchange.range)
                assert found, exchange.range
                start = int(found[1])
                exchange.status = 206 if start < len(content) else 416
            self.send_response(exchange.status)
            if exchange.status == 416:
                self.end_headers()
                return
            if exchange.status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if server.length:
                self.send_header("Content-Length", str(len(content) - start))
            if server.validators:
                self.send_header("ETag", etag)
            self.end_headers()
            part = content[start:] if fault is None else content[start : start - fault]
            if server.hold_after is not None:
                self.wfile.write(content[start : server.hold_after])
                while server.hold_after is not None:
                    time.sleep(0.01)
                return
            exchange.sent = len(part)  # first, since the other side may look as soon as it has all
            self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            pass

    listener = Listener(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.hold_after = None
        listener.shutdown()
        thread.join()
        listener.server_close()
