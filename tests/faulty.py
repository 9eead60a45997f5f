"""A real S3 server on this machine, and a proxy before it that fails as networks do."""

import http.client
import itertools
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple

Fault = Literal["500", "403", "reset", "slow"]

__all__ = ["SLOW_SECONDS", "Answer", "Fault", "FaultyServer", "serve"]

SLOW_SECONDS = 0.1
"""By how much an answer is later with the fault `slow`."""


class Answer(NamedTuple):
    """A request that was answered: which part of which object, and the bytes of the answer."""

    method: str
    path: str
    part: str
    """Header `Range` of the request; empty for the whole object."""
    n_bytes: int


class FaultyServer:
    """Where the proxy listens, and what it does wrong."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.fault: Callable[[int, str], Fault | None] = lambda index, method: None
        """Number of a request since `counted_from_now` and its method -> what happens to it; None: it's answered."""
        self.requests: list[str] = []
        self.answers: list[Answer] = []
        self._count = itertools.count()

    def counted_from_now(self, fault: Callable[[int, str], Fault | None]) -> None:
        self._count = itertools.count()
        self.requests = []
        self.answers = []
        self.fault = fault

    def take(self, method: str, path: str) -> Fault | None:
        self.requests.append(f"{method} {path}")
        return self.fault(next(self._count), method)


@contextmanager
def serve() -> Iterator[FaultyServer]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    behind = moto.get_host_and_port()
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    proxy.daemon_threads = True
    server = FaultyServer(f"http://127.0.0.1:{proxy.server_address[1]}")
    proxy.RequestHandlerClass = type("Handler", (_Handler,), {"server_state": server, "behind": behind})
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        proxy.shutdown()
        proxy.server_close()
        moto.stop()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms
    wbufsize = -1
    server_state: FaultyServer
    behind: tuple[str, int]

    def log_message(self, *_: Any) -> None:
        pass

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server_state.take(self.command, self.path)
        if fault == "reset":
            # Linger of zero seconds: the connection ends with a reset and not with a goodbye.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        if fault in ("500", "403"):
            self._answer(int(fault), [], b"<Error><Code>Injected</Code></Error>")
            return
        connection = http.client.HTTPConnection(*self.behind)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        self._answer(response.status, response.getheaders(), content)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        n_bytes = 0 if self.command == "HEAD" else len(content)
        self.server_state.answers.append(Answer(self.command, self.path, self.headers.get("Range", ""), n_bytes))
        if n_bytes:
            self.wfile.write(content)


for _method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler._forward)
