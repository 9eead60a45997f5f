"""A run that is given out, and raw requests to who gives it."""

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lorascope.analyze.viewing.served_files import ServedStore
from lorascope.analyze.viewing.server import ViewServer
from lorascope.analyze.viewing.view import View
from lorascope.stores import open_place
from lorascope.stores.reading.root import read_root

PAGE = (b"<!doctype html>", "text/html; charset=utf-8")


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Given(NamedTuple):
    """A copy of a run, and its server."""

    run: Path
    server: ViewServer

    def ask(self, key: str, *headers: str, method: str = "GET", hosts: tuple[str, ...] | None = None) -> Reply:
        """What a request for a key below the secret gets, or for an address that begins with `/`."""
        target = key if key.startswith("/") or "://" in key else f"/{self.server.secret}/{key}"
        named = (f"127.0.0.1:{self.server.server_port}",) if hosts is None else hosts
        lines = [f"{method} {target} HTTP/1.1", *(f"Host: {host}" for host in named), *headers, "Connection: close"]
        return reply(self.send("\r\n".join([*lines, "", ""]).encode("latin-1")))

    def send(self, request: bytes) -> bytes:
        """All that comes back until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.server.server_port), timeout=30) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(2**16), b""))


def reply(content: bytes) -> Reply:
    head, _, body = content.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return Reply(int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body)


@pytest.fixture
def give() -> Iterator[Callable[..., Given]]:
    """Serves a store below `runs/0/`, next to a page."""
    running: list[View] = []

    def start(path: Path | str) -> Given:
        store = ServedStore.of(read_root(open_place(path)))
        server = ViewServer({"": PAGE}, {"runs/0/": store}, 0)
        running.append(View(server))
        return Given(Path(path), server)

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def given(give: Callable[..., Given], many_rows: Path, tmp_path: Path) -> Given:
    return give(shutil.copytree(many_rows, tmp_path / "here" / "run.zarr"))
