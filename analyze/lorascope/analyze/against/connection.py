"""Ask an HTTP server questions in JSON: with limits of time and size, further attempts, and errors of one line."""

import json
import os
import socket
import threading
import time
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead
from typing import Any
from urllib.parse import quote, urlsplit

from lorascope.stores.errors import StoreError
from lorascope.stores.json_document import parse_json
from lorascope.stores.visible import one_line

KEY = "LORASCOPE_API_KEY"
"""Environment variable with the server's key; not OpenAI's own, which no other server should get."""
CONNECT_SECONDS, IDLE_SECONDS, TOTAL_SECONDS = 10.0, 120.0, 600.0
"""Longest wait for a connection, for further bytes of an answer (vLLM's first takes half a minute), for all of it."""
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt."""
LOST = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, IncompleteRead)
"""Errors of a connection that was lost after it was made; a further attempt may succeed."""
ANSWER_BYTES, TOKEN_BYTES = 2**16, 2**10
"""Size of the largest answer to a question without tokens, and what each token adds; vLLM sends 80 bytes per token."""


class ServerError(RuntimeError):
    """Error of a server that can't be reached, refuses, or answers what can't be right; without the server's key."""

    def __init__(self, message: str) -> None:
        super().__init__(without_key(message))


class Server:
    """HTTP server at `url`, asked with the key in the environment; ValueError if either isn't of the right form."""

    def __init__(self, url: str) -> None:
        self.key = os.environ.get(KEY, "").strip()
        try:
            parts = urlsplit(url)
            self.port = parts.port
        except ValueError:  # a bracket that isn't closed, or a port above 65535
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or {*url} & {*"?#"}:
            shown = one_line(url.rpartition("@")[2])  # without a password
            raise ValueError(
                f"{shown!r} isn't a server's address; give one like `http://localhost:8000`, a key in `{KEY}`"
            )
        if not (self.key.isascii() and self.key.isprintable()):
            raise ValueError(f"`{KEY}` holds a character that no key has, such as a line's end; set it again")
        self.kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self.host, self.root = parts.hostname, parts.path.rstrip("/").removesuffix("/v1")
        self.url = f"{parts.scheme}://{parts.netloc}{self.root}"

    def ask(self, path: str, question: object = None, *, n_tokens: int = 0) -> Any:
        """Return the parsed JSON that the server answers to a POST of the question, or to a GET without a question.

        After a lost connection, and a status of 429 or of 500 and more, it is asked again. Raises ServerError if that
        doesn't help, for all else that fails, and for an answer that is larger than `n_tokens` tokens need.
        """
        max_bytes, pauses = ANSWER_BYTES + n_tokens * TOKEN_BYTES, iter(PAUSES)
        while True:
            try:
                status, location, content = self._exchange(path, question, max_bytes)
            except (OSError, HTTPException) as error:
                failure = f"can't be asked: {type(error).__name__}: {one_line(str(error))}"
                if isinstance(error, TimeoutError):
                    limits = f"within {CONNECT_SECONDS:g} s, nothing came for {IDLE_SECONDS:g} s"
                    failure = f"can't be asked: no connection {limits}, or no whole answer within {TOTAL_SECONDS:g} s"
                failure, may_pass = f"{failure}; look at the address and at the server's log", isinstance(error, LOST)
            else:
                may_pass = status == 429 or status >= 500
                if len(content) > max_bytes:
                    failure = f"answers more than {max_bytes} bytes, the most allowed; is it the right server?"
                elif status != 200:
                    failure = self._refusal(status, location, content)
                else:
                    try:
                        return parse_json(content, path)
                    except StoreError:
                        start = without_key(content.decode(errors="replace"))[:60]
                        failure = f"answers {start!r}, which isn't whole JSON; is it the right server?"
            pause = next(pauses, None)
            if pause is None or not may_pass:
                raise ServerError(f"{self.url}{path} {failure}")
            time.sleep(pause)

    def _exchange(self, path: str, question: object, max_bytes: int) -> tuple[int, str, bytes]:
        """Return status, redirection and content of the answer to one request, cut after `max_bytes` + 1 bytes."""
        body = None if question is None else json.dumps(question).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        start = time.monotonic()
        with closing(self.kind(self.host, self.port, timeout=CONNECT_SECONDS)) as connection:
            connection.connect()
            connection.sock.settimeout(IDLE_SECONDS)
            timer = threading.Timer(TOTAL_SECONDS, _shut, [connection.sock])
            timer.start()
            try:
                connection.request("GET" if body is None else "POST", self.root + path, body, headers)
                with connection.getresponse() as response:
                    content = response.read(max_bytes + 1)
                if response.length and len(content) <= max_bytes:  # a read of limited size doesn't raise it itself
                    raise IncompleteRead(content, response.length)
                return response.status, response.getheader("Location", ""), content
            finally:
                timer.cancel()
                if time.monotonic() - start >= TOTAL_SECONDS:
                    raise TimeoutError

    def _refusal(self, status: int, location: str, content: bytes) -> str:
        """Return what the server answers with a status other than 200, without the key, and what to do."""
        text = without_key(content.decode(errors="replace"))
        mend = "look at the address, the model's name and the server's log"
        if 300 <= status < 400:
            mend = f"it sends to {one_line(location)!r}: give that address if it is right"
        elif status in (401, 403):
            mend = f"set `{KEY}` to the server's key"
        return f"answers {status} ({one_line(' '.join(text.split()))[:300]}); {mend}"


def without_key(text: str) -> str:
    """Return what a server answered with asterisks in place of the key, as it is, in a URL, or escaped in JSON."""
    key = os.environ.get(KEY, "").strip()
    for form in {key, quote(key), quote(key, safe=""), json.dumps(key)[1:-1], key.replace("/", "\\/")} - {""}:
        text = text.replace(form, "***")
    return text


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
