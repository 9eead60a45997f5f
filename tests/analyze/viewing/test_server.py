"""What the server gives out, and above all what it doesn't, by raw requests."""

import logging
import os
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lorascope.analyze.viewing import server
from lorascope.stores import open_place

from .conftest import PAGE, Given, reply

CHUNK = "states/model.layers.0.mlp.up_proj/base/c.0.0"
FACTOR = "adapters/default/factor/c.0.0"
SECRET = b"not to be read"


def test_the_page_and_every_part_of_a_run_are_given_out(given: Given) -> None:
    assert given.ask("").body == PAGE[0]
    keys = [key for key, _ in open_place(given.run).sizes()]
    assert len(keys) > 100
    for key in keys:
        found = given.ask(f"runs/0/{key}")
        assert (found.status, found.body) == (200, (given.run / key).read_bytes()), key


def test_what_headers_say(given: Given) -> None:
    types = {"": PAGE[1], "runs/0/zarr.json": "application/json", f"runs/0/{CHUNK}": "application/octet-stream"}
    for key, kind in types.items():
        headers = given.ask(key).headers
        assert headers["Content-Type"] == kind
        assert headers["Cache-Control"] == "no-cache"  # another run may take this one's place
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Server"].strip() == "lorascope"
        assert not [name for name in headers if name.lower().startswith("access-control")]


def test_what_an_unfinished_run_lacks_is_not_found(give: Callable[..., Given], unfinished: Path) -> None:
    given = give(unfinished)
    assert given.ask("runs/0/rows/commit/c.1.0").status == 404


HOSTS: dict[str, tuple[tuple[str, ...], int]] = {
    "the address": (("127.0.0.1:{port}",), 200),
    "localhost": (("localhost:{port}",), 200),
    "none": ((), 403),
    "rebound": (("evil.example:{port}",), 403),
    "rebound, looks local": (("127.0.0.1.evil.example:{port}",), 403),
    "without a port": (("127.0.0.1",), 403),
    "another port": (("127.0.0.1:1",), 403),
    "another loopback": (("127.0.0.2:{port}",), 403),
    "with a user": (("127.0.0.1:{port}@evil.example",), 403),
    "two": (("127.0.0.1:{port}", "evil.example"), 403),
    "twice": (("127.0.0.1:{port}", "127.0.0.1:{port}"), 403),
}


@pytest.mark.parametrize("key", ["", f"runs/0/{CHUNK}"], ids=["page", "chunk"])
def test_other_hosts_are_refused(given: Given, key: str) -> None:
    port = given.server.server_port
    for name, (hosts, status) in HOSTS.items():
        found = given.ask(key, hosts=tuple(host.format(port=port) for host in hosts))
        assert found.status == status, name
        assert found.body.startswith(f"only 127.0.0.1:{port} and localhost:{port} ".encode()) == (status == 403), name


def test_nothing_is_given_to_who_does_not_know_the_secret(given: Given) -> None:
    secret = given.server.secret
    assert len(secret) >= 22  # 128 bits
    for path in ("/", "/view.json", f"/runs/0/{CHUNK}", f"/{secret[:-1]}/", f"/{secret}", f"/{secret}x/", "/\xff\xfe/"):
        found = given.ask(path)
        assert (found.status, found.body[:15]) == (404, b"nothing is here"), path
    assert given.ask(f"/{secret}/?anything").status == 200


UNKNOWN = [
    "runs/0/../secret",
    "runs/0/../../secret",
    "runs/0/rows/../../secret",
    "../secret",
    "runs/0/..%2fsecret",
    "runs/0/%2e%2e/secret",
    "runs/0/%2e%2e%2fsecret",
    "runs/0/..\\secret",
    "runs/0/..%5csecret",
    "runs/0/zarr.json%00",
    "runs/0/zarr.json\x00",
    "runs/0/{at}/secret",
    "runs/0//{at}/secret",
    "runs/0/%2f{at}/secret",
    "runs/0//zarr.json",
    "runs/0/./zarr.json",
    "runs/0/zarr%2ejson",
    "runs/0/.hidden",
    "runs/0/rows/digest/.c.0.0.0badcafe.partial",
    "runs/0/notes.txt",
    "runs/0/stray/zarr.json",
    "runs/0/rows/digest/c.00.0.0",
    "runs/0/rows/digest/c",
    "runs/0/rows/digest/c.0",
    "runs/0/rows/digest/c.\u0663.0",
    "runs/0/rows/digest/c.-1.0",
    "runs/0/rows/digest/c.99999999999.0",
    "runs/0/rows/digest",
    "runs/0/rows/",
    "runs/0/",
    "runs/0",
    "runs/",
    "runs/1/zarr.json",
    "http://127.0.0.1/secret",
    "file://{at}/secret",
]


def test_no_other_name_leads_anywhere(given: Given) -> None:
    (given.run.parent / "secret").write_bytes(SECRET)
    for name in (".hidden", "notes.txt", "stray/zarr.json", "rows/digest/.c.0.0.0badcafe.partial", "rows/digest/c.0"):
        (given.run / name).parent.mkdir(exist_ok=True)
        (given.run / name).write_bytes(SECRET)
    for key in UNKNOWN:
        found = given.ask(key.format(at=given.run.parent).encode().decode("latin-1"))
        assert found.status == 404, key
        assert SECRET not in found.body, key
    assert given.ask("runs/0/rows/digest/c.0.0").status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_links_out_of_a_run_are_not_followed(
    give: Callable[..., Given], many_rows: Path, tmp_path: Path, method: str
) -> None:
    run = shutil.copytree(many_rows, tmp_path / "real.zarr")
    (tmp_path / "link.zarr").symlink_to(run)
    given = give(tmp_path / "link.zarr")
    assert given.ask(f"runs/0/{CHUNK}", method=method).status == 200  # the run's own folder may be one
    secret = tmp_path / "real.zarr.secret"  # whose name begins as the run's
    secret.write_bytes(SECRET)
    (run / CHUNK).unlink()
    (run / CHUNK).symlink_to(secret)
    (run / "rows").rename(tmp_path / "rows")
    (run / "rows").symlink_to(tmp_path / "rows")
    for key in (CHUNK, "rows/digest/c.0.0"):
        found = given.ask(f"runs/0/{key}", method=method)
        assert found.status == 403
        assert SECRET not in found.body
        assert b"leads out of the store" in found.body or method == "HEAD"
    (run / CHUNK).unlink()
    (run / CHUNK).symlink_to(run / FACTOR)
    assert given.ask(f"runs/0/{CHUNK}", method=method).status == 200  # it stays inside
    (run / CHUNK).unlink()
    (run / CHUNK).symlink_to(CHUNK.rpartition("/")[2])
    assert given.ask(f"runs/0/{CHUNK}", method=method).status in (404, 502)  # it leads to itself


def test_what_is_no_file_of_its_size_is_refused(given: Given) -> None:
    file = given.run / CHUNK
    for make in (file.mkdir, lambda: os.mkfifo(file), lambda: file.write_bytes(bytes(10**6))):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
        make()
        for headers in ((), ("Range: bytes=0-1",)):
            found = given.ask(f"runs/0/{CHUNK}", *headers)
            assert (found.status, found.body.count(b"\n")) in ((403, 1), (416, 0))
    file.unlink()
    assert given.ask(f"runs/0/{CHUNK}").status == 404


RANGES: dict[str, tuple[int, slice]] = {
    "bytes=0-0": (206, slice(0, 1)),
    "bytes=10-99": (206, slice(10, 100)),
    "bytes=10-": (206, slice(10, None)),
    "bytes=-8": (206, slice(-8, None)),
    "bytes=-99999999": (206, slice(None)),
    "bytes=5-99999999": (206, slice(5, None)),
    "bytes=99999999-": (416, slice(0, 0)),
    "bytes=-0": (416, slice(0, 0)),
    # No single range of bytes: as if none had been asked for.
    "bytes=5-2": (200, slice(None)),
    "bytes=0-1,4-5": (200, slice(None)),
    "bytes=-": (200, slice(None)),
    "bytes=0x1-2": (200, slice(None)),
    "bytes=\u0663-": (200, slice(None)),
    f"bytes=0-{'9' * 5000}": (200, slice(None)),
    "rows=0-1": (200, slice(None)),
}


def test_ranges(given: Given) -> None:
    whole = (given.run / FACTOR).read_bytes()
    for asked, (status, part) in RANGES.items():
        header = f"Range: {asked.encode().decode('latin-1')}"
        found = given.ask(f"runs/0/{FACTOR}", header)
        assert (found.status, found.body) == (status, whole[part]), asked
        assert found.headers["Content-Length"] == str(len(whole[part]))
        start, stop, _ = part.indices(len(whole))
        ranges = {206: f"bytes {start}-{stop - 1}/{len(whole)}", 416: f"bytes */{len(whole)}", 200: None}
        assert found.headers.get("Content-Range") == ranges[status], asked
        again = given.ask(f"runs/0/{FACTOR}", header, 'If-Range: "x"')
        assert (again.status, again.body) == (200, whole), asked


def test_head_says_the_same_without_a_body(given: Given) -> None:
    for key in ("", f"runs/0/{CHUNK}", "runs/0/zarr.json", "runs/0/none"):
        got, head = given.ask(key), given.ask(key, method="HEAD")
        drop = {"Date"}
        assert head.body == b""
        assert {k: v for k, v in head.headers.items() if k not in drop} == {
            k: v for k, v in got.headers.items() if k not in drop
        }
        assert head.status == got.status


def test_other_methods_are_refused(given: Given) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"):
        assert given.ask("", method=method).status == 501, method


def test_a_body_is_no_second_request(given: Given) -> None:
    port, secret = given.server.server_port, given.server.secret
    hidden = f"GET /{secret}/runs/0/zarr.json HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
    for header in (f"Content-Length: {len(hidden)}", "Transfer-Encoding: chunked"):
        request = f"GET /{secret}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{header}\r\n\r\n{hidden}"
        answers = given.send(request.encode())
        assert reply(answers).status == 400
        assert answers.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("headers", "page", "chunk"),
    [
        (("Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: cors"), 200, 200),
        (("Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"), 200, 200),
        (("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"), 200, 403),
        (("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: script"), 403, 403),
        (("Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors"), 403, 403),  # another port of this machine
    ],
)
def test_other_sites_may_open_the_page_and_read_nothing(
    given: Given, headers: tuple[str, ...], page: int, chunk: int
) -> None:
    assert given.ask("", *headers).status == page
    assert given.ask(f"runs/0/{CHUNK}", *headers).status == chunk


def test_a_connection_serves_many_requests_and_odd_ones_end_it_in_words(given: Given) -> None:
    port, secret = given.server.server_port, given.server.secret
    one = f"GET /{secret}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    assert given.send(f"{one}\r\n{one}\r\n{one}Connection: close\r\n\r\n".encode()).count(PAGE[0]) == 3
    for odd in (b"GET\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"x" * 70000):
        answer = given.send(odd)
        assert b"400" in answer or b"505" in answer or b"414" in answer
    assert reply(given.send(f"GET /{secret}/ HTTP/1.0\r\n\r\n".encode())).status == 403


def test_a_client_that_hangs_up_is_no_news(
    given: Given, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    port, secret = given.server.server_port, given.server.secret
    others = {*threading.enumerate()}
    given.server.documents = {"": (bytes(50_000_000), "text/plain")}
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(f"GET /{secret}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            assert client.recv(10)
    assert given.ask(f"runs/0/{CHUNK}").status == 200
    for one in {*threading.enumerate()} - others:
        one.join(30)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
    given.server.documents = {"": ()}  # type: ignore[dict-item]  # a mistake of ours is logged
    assert given.send(f"GET /{secret}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()) == b""
    assert [record.levelname for record in caplog.records if record.exc_info][-1] == "ERROR"


def test_many_at_once_get_what_they_asked_for(given: Given) -> None:
    sizes = dict(open_place(given.run).sizes())
    keys = [key for key in sizes if "/c." in key] * 3

    def same(key: str) -> bool:
        return given.ask(f"runs/0/{key}").body == (given.run / key).read_bytes()

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(same, keys))


def test_connections_beyond_the_limit_are_told_to_come_later(
    given: Given, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(server, "REQUEST_SECONDS", 30.0)
    with ExitStack() as idle:
        for _ in range(3):
            idle.enter_context(socket.create_connection(("127.0.0.1", given.server.server_port), timeout=30))
        for _ in range(4):
            assert given.ask("").status == 503
        assert given.ask("").headers["Retry-After"] == "10"
    others = [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]
    for thread in others:
        thread.join(30)
    assert given.ask("").body == PAGE[0]
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_a_request_that_comes_byte_by_byte_is_closed(
    given: Given, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Each byte comes well before the limit, and so would the whole request if its time weren't limited."""
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.5)
    for start in (b"GET /", b"GET / HTTP/1.1\r\nX: "):
        with socket.create_connection(("127.0.0.1", given.server.server_port), timeout=30) as client:
            client.sendall(start)
            started = time.monotonic()
            with pytest.raises(ConnectionError):  # noqa: PT012 (which byte fails is up to the system)
                for _ in range(200):
                    client.sendall(b"x")
                    time.sleep(0.05)
            assert time.monotonic() - started > 0.4
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_an_answer_that_is_read_slowly_is_closed(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.5)
    given.server.documents = {"": (bytes(50_000_000), "text/plain")}
    port, secret = given.server.server_port, given.server.secret
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(f"GET /{secret}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        for _ in range(30):
            assert client.recv(1000)
            time.sleep(0.05)
        assert len(b"".join(iter(lambda: client.recv(2**20), b""))) < 49_000_000
    given.server.documents = {"": PAGE}
    assert given.ask("").body == PAGE[0]


def test_after_the_end_nothing_is_given(give: Callable[..., Given], many_rows: Path) -> None:
    given = give(many_rows)
    port, secret = given.server.server_port, given.server.secret
    request = f"GET /{secret}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(request)
        assert client.recv(2**16).startswith(b"HTTP/1.1 200")
        given.server.stopped = True
        client.sendall(request)
        assert client.recv(2**16).startswith(b"HTTP/1.1 400")


def test_a_run_in_an_object_store(give: Callable[..., Given], many_rows: Path, s3: Any) -> None:
    here = open_place(many_rows)
    for key, _ in here.sizes():
        open_place(s3.prefix).write(key, here.read(key, at_most=2**31))
    given = give(s3.prefix)
    whole = (many_rows / FACTOR).read_bytes()
    s3.counted_from_now(lambda index, method: None)
    assert given.ask(f"runs/0/{FACTOR}").body == whole
    assert given.ask(f"runs/0/{FACTOR}", "Range: bytes=-20").body == whole[-20:]
    assert given.ask(f"runs/0/{FACTOR}", "Range: bytes=5-9").body == whole[5:10]
    assert given.ask(f"runs/0/{FACTOR}", method="HEAD").headers["Content-Length"] == str(len(whole))
    assert [request.split()[0] for request in s3.requests] == ["GET", *["HEAD", "GET"] * 2, "HEAD"]
    assert given.ask("runs/0/rows/digest/c.7.0").status == 404
    assert given.ask("runs/0/../other").status == 404
    s3.counted_from_now(lambda index, method: "403")
    found = given.ask(f"runs/0/{CHUNK}")
    assert (found.status, found.body.count(b"\n")) == (502, 1)
    assert b"check the credentials" in found.body
