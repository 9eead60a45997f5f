"""A static server of the page and its runs, for processes of this machine that know its secret address."""

import logging
import os
import re
import secrets
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from lorascope.stores import StoreError
from lorascope.stores.visible import one_line

from .served_files import ServedStore

HTML, JSON, BYTES = "text/html; charset=utf-8", "application/json", "application/octet-stream"
MAX_CONNECTIONS = 64
"""Most connections at once, ten times those of a browser; each has a thread."""
REQUEST_SECONDS = 10.0
"""Seconds within which a request must have arrived whole, since its connection was opened or the last answer ended."""
ANSWER_SECONDS = 300.0
"""Seconds within which an answer must have been read whole, also through a slow tunnel."""
OURS = (None, "none", "same-origin")
"""Values of `Sec-Fetch-Site` in requests from the page, or after the address was typed."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
"""Headers of every answer."""
ABSENT = (FileNotFoundError, NotADirectoryError)
"""Errors that mean that a file doesn't exist."""

_logger = logging.getLogger(__name__)
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class Answer(NamedTuple):
    """Status, content and headers of an HTTP answer."""

    status: HTTPStatus
    content: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = {}


class ViewServer(ThreadingHTTPServer):
    """HTTP server of documents by name, and of Zarr stores by prefix, for processes of this machine only.

    Every address begins with a secret: on a shared machine, everybody can connect to all ports, and could otherwise
    read through this server what they may not read on the disk.
    """

    allow_reuse_address = os.name == "posix"  # on Windows it would let others take over the port
    request_queue_size = 128

    def __init__(
        self, documents: Mapping[str, tuple[bytes, str]], stores: Mapping[str, ServedStore], port: int
    ) -> None:
        """Bind to `port` of 127.0.0.1 (0: any free one) and choose a secret; raise OSError if the port is taken."""
        self.documents, self.stores = documents, stores
        self.secret = secrets.token_urlsafe(16)
        self.stopped = False
        self._deadlines: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        self.hosts = tuple([f"{name}:{self.server_port}"] for name in ("127.0.0.1", "localhost"))
        self.url = f"http://127.0.0.1:{self.server_port}/{self.secret}/"

    def server_bind(self) -> None:
        """Bind like any TCP server, because HTTPServer's method asks the network for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_port = self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a new connection in a thread of its own, or close it at once if there are too many."""
        if len(self._deadlines) >= MAX_CONNECTIONS:
            with suppress(OSError):
                request.sendall(_BUSY)
            self.shutdown_request(request)
            return
        self.limit_seconds(request, REQUEST_SECONDS)
        super().process_request(request, client_address)

    def limit_seconds(self, connection: socket.socket, seconds: float) -> None:
        """Close a connection after these seconds, unless another call comes before."""
        with self._lock:
            self._deadlines[connection] = time.monotonic() + seconds

    def service_actions(self) -> None:
        """Close connections that took too long; the server calls this at least every `STOP_SECONDS`."""
        with self._lock:
            late = [connection for connection, deadline in self._deadlines.items() if deadline < time.monotonic()]
            for connection in late:
                with suppress(OSError):  # the client closed it
                    connection.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, which doesn't count any more."""
        with self._lock:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error, unless the client only hung up."""
        level = logging.DEBUG if isinstance(sys.exception(), OSError) else logging.ERROR
        _logger.log(level, "a request wasn't answered to its end", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Handler of HTTP requests: answers GET and HEAD with documents and parts of stores, and the rest with errors."""

    server: ViewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "lorascope", ""
    timeout = REQUEST_SECONDS  # of one read or write, also once the server has stopped
    disable_nagle_algorithm = True
    wbufsize = -1  # headers are sent together with the content

    def handle_one_request(self) -> None:
        """Read a request and answer it, both within a limited time."""
        self.server.limit_seconds(self.connection, REQUEST_SECONDS)
        super().handle_one_request()

    def do_GET(self) -> None:
        """Send the answer to a GET or HEAD request; for HEAD without its content."""
        self.server.limit_seconds(self.connection, ANSWER_SECONDS)
        answer = self._answer()
        self.send_response(answer.status)
        length = str(len(answer.content))
        headers = {"Content-Type": answer.content_type, "Content-Length": length, "Cache-Control": "no-cache"}
        for name, value in {**headers, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(answer.content)

    do_HEAD = do_GET  # noqa: N815 (its name there)

    def end_headers(self) -> None:
        """Send the headers of every answer, such as `nosniff`, after the others."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log a request at level DEBUG, instead of printing it."""
        _logger.debug("%s", one_line(format % args))

    def _answer(self) -> Answer:
        """Return the answer to this request; errors of the request or the store are answers as well."""
        path, secret = self.path.partition("?")[0], f"/{self.server.secret}/"
        key = path[len(secret) :]
        if self.server.stopped or self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # the next bytes would be a body
            return _text_answer(HTTPStatus.BAD_REQUEST, "no request with a body is answered, and none after the end")
        if self.headers.get_all("Host") not in self.server.hosts:
            known = " and ".join(host for (host,) in self.server.hosts)
            return _text_answer(HTTPStatus.FORBIDDEN, f"only {known} are answered; forward a port under its own number")
        if not secrets.compare_digest(path[: len(secret)].encode(), secret.encode()):
            return _text_answer(HTTPStatus.NOT_FOUND, "nothing is here; open the whole address that lorascope printed")
        opened = key == "" and self.headers.get("Sec-Fetch-Mode") == "navigate"
        if not opened and self.headers.get("Sec-Fetch-Site") not in OURS:
            return _text_answer(HTTPStatus.FORBIDDEN, "other sites may open the page, and read nothing")
        try:
            return self._respond(key)
        except ABSENT:
            return _text_answer(HTTPStatus.NOT_FOUND, "there is no such part of a run")
        except StoreError as error:
            return _text_answer(HTTPStatus.FORBIDDEN, str(error))
        except OSError as error:  # an object store, or a disk, that fails
            return _text_answer(HTTPStatus.BAD_GATEWAY, str(error))

    def _respond(self, key: str) -> Answer:
        """Return the document or the part of a store that a key names; raise FileNotFoundError for other keys."""
        if key in self.server.documents:
            return Answer(HTTPStatus.OK, *self.server.documents[key])
        prefix = next((prefix for prefix in self.server.stores if key.startswith(prefix)), None)
        if prefix is None:
            raise FileNotFoundError
        store, key = self.server.stores[prefix], key.removeprefix(prefix)
        is_node = key.endswith("zarr.json")
        headers = {"Accept-Ranges": "bytes"}
        answer = partial(Answer, content_type=JSON if is_node else BYTES)
        if self.command == "HEAD":
            return answer(HTTPStatus.OK, b"", headers=headers | {"Content-Length": str(store.size(key))})
        if "Range" in self.headers and "If-Range" not in self.headers:
            size = store.size(key)
            requested = byte_range(self.headers["Range"], size)
            if requested is not None and not requested:
                unmet = {"Content-Range": f"bytes */{size}"}
                return Answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", headers=unmet)
            if requested is not None:
                content = store.read_part(key, requested.start, requested.stop)
                content_range = f"bytes {requested.start}-{requested.start + len(content) - 1}/{size}"
                return answer(HTTPStatus.PARTIAL_CONTENT, content, headers=headers | {"Content-Range": content_range})
        return answer(HTTPStatus.OK, store.read(key), headers=headers)


def byte_range(header: str, size: int) -> range | None:
    """Return the bytes that a `Range` header wants from a file of `size` bytes; empty if all are beyond its end.

    None means the whole file, as for anything but a single range of bytes (RFC 9110, 14.2).

    Examples
    --------
    >>> byte_range("bytes=2-5", 100), byte_range("bytes=-8", 100), byte_range("bytes=100-", 100)
    (range(2, 6), range(92, 100), range(100, 100))
    """
    match = _RANGE.fullmatch(header)
    first, last = match.groups() if match else ("", "")
    if not first:
        return range(max(size - int(last), 0), size) if last else None
    start, stop = int(first), min(int(last or size) + 1, size)
    return None if last and int(last) < start else range(start, max(start, stop))


def _text_answer(status: HTTPStatus, message: str) -> Answer:
    """Return an HTTP answer with a message as plain text."""
    return Answer(status, f"{message}\n".encode(errors="backslashreplace"))
