"""Ask an HTTP server questions in JSON: with limits of time and size, further attempts, and errors of one line."""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead
from typing import Any
from urllib.parse import urlsplit

from lorascope.stores.errors import StoreError
from lorascope.stores.json_document import parse_json
from lorascope.stores.visible import one_line

KEY = "LORASCOPE_API_KEY"
"""Environment variable with the server's key; not OpenAI's own, which no other server should get."""
CONNECT_SECONDS, IDLE_SECONDS, TOTAL_SECONDS = 10.0, 120.0, 600.0
"""Longest wait for a connection, for further bytes of an answer (vLLM's first takes half a minute), for all of it."""
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt: after a lost connection, and after a status of 429, or 500 and more."""
ANSWER_BYTES, TOKEN_BYTES = 2**16, 2**10
"""Size of the largest answer to a question without tokens, and what each token adds; vLLM sends 80 bytes per token."""


class ServerError(RuntimeError):
    """Error of a server that can't be reached, refuses, or answers what can't be right."""

    may_pass = False
    """Whether a further attempt may succeed."""


class Server:
    """HTTP server at `url`, asked with the key in the environment; ValueError if either isn't of the right form."""

    def __init__(self, url: str) -> None:
        parts, self.key = urlsplit(url), os.environ.get(KEY, "").strip()
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or {*url} & {*"?#"}:
            shown = one_line(url.rpartition("@")[2])  # without a password
            raise ValueError(
                f"{shown!r} isn't a server's address; give one like `http://localhost:8000`, a key in `{KEY}`"
            )
        if not (self.key.isascii() and self.key.isprintable()):
            raise ValueError(f"`{KEY}` holds a character that no key has, such as a line's end; set it again")
        self.kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self.host, self.port, self.root = parts.hostname, parts.port, parts.path.rstrip("/").removesuffix("/v1")
        self.url = f"{parts.scheme}://{parts.netloc}{self.root}"

    def ask(self, path: str, question: object = None, *, n_tokens: int = 0) -> Any:
        """Return the parsed JSON that the server answers to a POST of the question, or to a GET without a question.

        Raises ServerError if none comes, also after all further attempts, or it is larger than `n_tokens` tokens need.
        """
        max_bytes = ANSWER_BYTES + n_tokens * TOKEN_BYTES
        for pause in PAUSES:
            try:
                return self._ask_once(path, question, max_bytes)
            except ServerError as error:
                if not error.may_pass:
                    raise
            time.sleep(pause)
        return self._ask_once(path, question, max_bytes)

    def _ask_once(self, path: str, question: object, max_bytes: int) -> Any:
        """Return the parsed answer to one request."""
        place, timer, start = f"{self.url}{path}", None, time.monotonic()
        body = None if question is None else json.dumps(question).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        connection = self.kind(self.host, self.port, timeout=CONNECT_SECONDS)
        try:
            connection.connect()
            connection.sock.settimeout(IDLE_SECONDS)
            timer = threading.Timer(TOTAL_SECONDS, _shut, [connection.sock])
            timer.start()
            connection.request("GET" if body is None else "POST", self.root + path, body, headers)
            with connection.getresponse() as response:
                content = response.read(max_bytes + 1)
            if (response.length and len(content) <= max_bytes) or time.monotonic() - start >= TOTAL_SECONDS:
                raise IncompleteRead(content, response.length)
        except (OSError, HTTPException) as error:
            what = f"{type(error).__name__}: {one_line(str(error))}"
            if time.monotonic() - start >= TOTAL_SECONDS:
                what = f"no whole answer within {TOTAL_SECONDS:g} s"
            elif isinstance(error, TimeoutError):
                what = f"nothing came for {IDLE_SECONDS if timer else CONNECT_SECONDS:g} s"
            failure = ServerError(f"{place}: {what}; look at the address and at the server's log")
            failure.may_pass = isinstance(error, ConnectionError | IncompleteRead) and "within" not in what
            raise failure from error
        finally:
            if timer is not None:
                timer.cancel()
            connection.close()
        if len(content) > max_bytes:
            raise ServerError(f"{place} answers more than {max_bytes} bytes, the most allowed; is it the right server?")
        return self._read(place, response.status, response.getheader("Location"), content)

    def _read(self, place: str, status: int, location: str | None, content: bytes) -> Any:
        """Return an answer's parsed content if its status is 200, else raise ServerError with its message."""
        try:
            document = parse_json(content, place)
        except StoreError as error:
            document = None
            if status == 200:
                start = content[:60].decode(errors="replace")
                raise ServerError(
                    f"{place} answers {start!r}, which isn't whole JSON; is it the right server?"
                ) from error
        if status == 200:
            return document
        text = item(document, "error", "message") or item(document, "detail") or content.decode(errors="replace")
        text = one_line(" ".join(str(text).replace(self.key or "\0", "***").split()))[:300]
        mend = "look at the address, the model's name and the server's log"
        if 300 <= status < 400:
            mend = f"it sends to {one_line(str(location))!r}: give that address if it is right"
        elif status in (401, 403):
            mend = f"set `{KEY}` to the server's key"
        refusal = ServerError(f"{place} answers {status} ({text}); {mend}")
        refusal.may_pass = status == 429 or status >= 500
        raise refusal


def item(document: Any, *keys: str | int) -> Any:
    """Return the value at `keys` in a parsed JSON document, one key per level; None where there is no such value."""
    for key in keys:
        try:
            document = document[key]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def _shut(opened: socket.socket) -> None:
    """End all transfers of a socket, so that the thread that waits for it goes on with an error."""
    with suppress(OSError):
        socket.socket.shutdown(opened, socket.SHUT_RDWR)  # a TLS socket's own isn't for other threads
