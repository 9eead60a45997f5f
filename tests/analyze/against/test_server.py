"""Log-probabilities from a server: an honest one in two dialects, and some that lie, stall, break off or never end."""

import math
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze.against import connection
from lorascope.analyze.against.connection import ServerError
from lorascope.analyze.against.server import server_nll

from .conftest import Answer, Handler

SEQUENCES = [np.array(ids) for ids in ([5, 6, 7, 8], [5, 9], [3, 1, 4, 1, 5, 9, 2, 6], [8])]


def logprob(ids: list[int], position: int) -> float:
    """Depends on the token and all before it, so that mixed up answers show."""
    return -float(sum((i + 1) * token for i, token in enumerate(ids[: position + 1]))) / 7


def in_vllm_form(ids: list[int]) -> dict[str, Any]:
    later = [{str(ids[i]): {"logprob": logprob(ids, i), "rank": 3, "decoded_token": "x"}} for i in range(1, len(ids))]
    choice = {"index": 0, "text": " a", "logprobs": None, "prompt_logprobs": [None, *later]}
    return {"choices": [choice], "usage": {"prompt_tokens": len(ids)}}


def honest(_: Handler, question: Any) -> Any:
    if question is None:
        return {"data": [{"id": "only"}]}
    return in_vllm_form(question["prompt"])


def echoing(_: Handler, question: Any) -> Any:
    """The legacy dialect, with the written token's own log-probability at the end."""
    if question is None:
        return {"data": [{"id": "only"}]}
    ids = question["prompt"]
    listed = [None, *(logprob(ids, i) for i in range(1, len(ids)))] if question.get("echo") else []
    logprobs = {"token_logprobs": [*listed, -0.5]} if "logprobs" in question else None
    return {"choices": [{"logprobs": logprobs}], "usage": {"prompt_tokens": len(ids)}}


@pytest.mark.parametrize("answer", [honest, echoing])
def test_minus_log_p_of_each_token_in_the_order_of_the_sequences(serve: Any, answer: Answer) -> None:
    server, steps = serve(answer), []
    values = server_nll(server.url, SEQUENCES, progress=lambda *step: steps.append(step))
    for ids, nll in zip(SEQUENCES, values, strict=True):
        assert nll.dtype == np.float64
        expected = [-logprob(ids.tolist(), i) for i in range(1, len(ids))]
        np.testing.assert_array_equal(nll, [np.nan, *expected])
    assert steps == [(n, 4) for n in range(1, 5)]
    questions = [question for path, question, _ in server.asked if path == "/v1/completions"]
    assert all(question["model"] == "only" for question in questions)
    again = server_nll(server.url + "/v1/", SEQUENCES[::-1], 1, model="only")[::-1]
    assert all(np.array_equal(*pair, equal_nan=True) for pair in zip(values, again, strict=True))


def test_no_sequences_ask_nothing(serve: Any) -> None:
    server = serve(honest)
    assert server_nll(server.url, []) == []
    assert server.asked == []


@pytest.mark.parametrize(("repetition", "most_allowed"), [(0, 4), (1, 2)])
def test_requests_at_once(serve: Any, repetition: int, most_allowed: int) -> None:
    running, most, lock = 0, [], threading.Lock()

    def slow(handler: Handler, question: Any) -> Any:
        nonlocal running
        with lock:
            running += 1
            most.append(running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return honest(handler, question)

    server_nll(serve(slow).url, SEQUENCES * 4, repetition)
    assert max(most) == most_allowed


def changed(change: Callable[[list[Any], list[int]], Any]) -> Answer:
    """An answer whose `prompt_logprobs` of [3, 1, 4, ...] alone are changed."""

    def answer(handler: Handler, question: Any) -> Any:
        document = honest(handler, question)
        if question is not None and question["prompt"][0] == 3:
            choice = document["choices"][0]
            choice["prompt_logprobs"] = change(choice["prompt_logprobs"], question["prompt"])
        return document

    return answer


def with_logprob(value: Any) -> Answer:
    return changed(lambda listed, ids: [*listed[:-1], {str(ids[-1]): {"logprob": value}}])


def raw(status: int, content: bytes, **headers: str) -> Answer:
    return lambda handler, _: handler.reply(status, content, **headers)


def endless(handler: Handler, _: Any) -> None:
    """A chunked answer without an end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        handler.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def silent(handler: Handler, _: Any) -> None:
    """Nothing, for longer than the limit."""
    time.sleep(20)


def stalling(handler: Handler, _: Any) -> None:
    """Half an answer, then nothing."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    time.sleep(20)


def trickling(handler: Handler, _: Any) -> None:
    """Headers without an end, each soon enough."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(30):
        handler.wfile.write(b"X-A: b\r\n")
        time.sleep(0.1)


def cut(handler: Handler, _: Any) -> None:
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"choices"')


def reset(handler: Handler, _: Any) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


LIES: dict[str, tuple[Answer, str]] = {
    "another token": (
        changed(lambda listed, _: [*listed[:2], {"77": {"logprob": -1.0}}, *listed[3:]]),
        r"answers for token 77 at position 2, where 4 was sent; its tokenizer is another",
    ),
    "no token": (changed(lambda listed, _: [*listed[:2], {}, *listed[3:]]), "answers for token None at position 2"),
    "one more": (changed(lambda listed, _: [*listed, listed[1]]), "answers for 9 tokens, where 8 were sent"),
    "one less": (changed(lambda listed, _: listed[:-1]), "answers for 7 tokens, where 8 were sent"),
    "none at a place": (changed(lambda listed, _: [*listed[:-1], None]), "position 7 a log-probability of None"),
    "text": (with_logprob("-1"), "position 7 a log-probability of '-1'"),
    "true": (with_logprob(True), "a log-probability of True"),
    "positive": (with_logprob(0.25), "a log-probability of 0.25; allowed are finite numbers of at most 0"),
    "not a number": (with_logprob(math.nan), "a log-probability of nan"),
    "infinite": (with_logprob(-math.inf), "a log-probability of -inf"),
    "vLLM's infinite": (with_logprob(-9999.0), "a log-probability of -9999.0"),
    "no list": (changed(lambda *_: "all fine"), "has no log-probabilities of a prompt's tokens"),
    "no numbers": (lambda _, question: {"choices": []} if question else honest(_, None), "serve the model with vLLM"),
    "written tokens": (
        lambda _, question: (
            {"choices": [{"logprobs": {"token_logprobs": [-0.5] * 8}}]} if question else honest(_, None)
        ),
        "serve the model with vLLM",
    ),
    "a list": (raw(200, b"[]"), "lists no model; say which one to ask, with `--served-model NAME`"),
    "no JSON": (raw(200, b"<html>\x1b[2J Welcome"), r"answers '<html>\\x1b\[2J Welcome', which isn't whole JSON"),
    "nothing": (raw(200, b""), "answers '', which isn't whole JSON"),
    "two models": (lambda *_: {"data": [{"id": "base"}, {"id": "mine"}]}, "lists 'base', 'mine'; say which"),
    "endless": (endless, "answers more than 65536 bytes, the most allowed"),
    "10 GB": (raw(200, b" " * 2**17, Content_Length=str(10**10)), "answers more than 65536 bytes, the most allowed"),
    "silent": (silent, "nothing came for 0.5 s"),
    "stalling": (stalling, "nothing came for 0.5 s"),
    "trickling": (trickling, "no whole answer within 1 s"),
    "cut": (cut, r"IncompleteRead.*look at the address and at the server's log"),
    "reset": (reset, "ConnectionResetError|RemoteDisconnected"),
    "not HTTP": (lambda handler, _: handler.wfile.write(b"\x00\x01\x02\r\n"), "BadStatusLine"),
    "500": (raw(500, b'{"error": {"message": "EngineCore\\nhas died"}}'), r"answers 500 \(.*EngineCore.*has died.*\)"),
    "404": (raw(404, b'{"detail": "Not Found"}'), r"answers 404 \(.*Not Found.*\); look at the address"),
    "redirect": (raw(307, b"", Location="http://elsewhere/v1"), "it sends to 'http://elsewhere/v1': give that address"),
    "forbidden": (raw(401, b"no"), r"answers 401 \(no\); set `LORASCOPE_API_KEY` to the server's key"),
}


LIMITS = {"silent": ("IDLE_SECONDS", 0.5), "stalling": ("IDLE_SECONDS", 0.5), "trickling": ("TOTAL_SECONDS", 1.0)}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_or_breaks_is_named_in_one_line_and_soon(
    serve: Any, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    """Only who is slow meets a short limit: on a busy machine whoever else is asked may answer late."""
    if lie in LIMITS:
        monkeypatch.setattr(connection, *LIMITS[lie])
    answer, message = LIES[lie]
    server, start = serve(answer), time.monotonic()
    with pytest.raises(ServerError, match=message) as caught:
        server_nll(server.url, SEQUENCES)
    assert "\n" not in str(caught.value)
    assert server.url in str(caught.value)
    assert len(str(caught.value)) < 400
    assert time.monotonic() - start < 30


KEY = "sk-a/b+c"
SHOWN: dict[str, Answer] = {
    "as text": raw(200, f"Bearer {KEY}".encode()),
    "at the end of what is shown": raw(200, b"x" * 54 + KEY.encode()),
    "in an error": raw(400, b'{"got": "Bearer sk-a\\/b+c"}'),
    "in an address": raw(307, b"", Location="http://elsewhere/?key=sk-a%2Fb%2Bc"),
    "in place of a number": with_logprob(KEY),
    "in place of a token": changed(lambda listed, _: [*listed[:2], {KEY: {"logprob": -1.0}}, *listed[3:]]),
    "as a model": lambda *_: {"data": [{"id": KEY}, {"id": "other"}]},
}


@pytest.mark.parametrize("answer", SHOWN.values(), ids=SHOWN)
def test_the_key_is_never_shown(serve: Any, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    """Whatever the server that was sent it answers."""
    monkeypatch.setenv(connection.KEY, KEY)
    with pytest.raises(ServerError) as caught:
        server_nll(serve(answer).url, SEQUENCES)
    assert "sk-a" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        with_logprob("A" * 5000),
        changed(lambda listed, _: [*listed[:2], {"\n" * 2000: {"logprob": -1.0}}, *listed[3:]]),
    ],
    ids=["number", "token"],
)
def test_what_a_server_invents_is_cut_to_one_line(serve: Any, answer: Answer) -> None:
    with pytest.raises(ServerError, match="position") as caught:
        server_nll(serve(answer).url, SEQUENCES)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


FAILURES = {"500": raw(500, b"busy"), "429": raw(429, b"slow"), "503": raw(503, b""), "cut": cut, "reset": reset}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_failures_that_pass_are_tried_again(serve: Any, failure: Answer) -> None:
    failed = dict.fromkeys(range(2), True)

    def answer(handler: Handler, question: Any) -> Any:
        if question is not None and len(question["prompt"]) == 8 and failed:
            failed.popitem()
            return failure(handler, question)
        return honest(handler, question)

    values = server_nll(serve(answer).url, SEQUENCES)
    assert not failed
    assert np.isfinite(values[2][1:]).all()


def test_a_failure_that_stays_is_tried_as_often_as_pauses_say(serve: Any) -> None:
    server = serve(raw(503, b"no"))
    with pytest.raises(ServerError, match="503"):
        server_nll(server.url, SEQUENCES, model="mine")
    assert len(server.asked) == 3


def test_what_will_not_pass_is_tried_once(serve: Any) -> None:
    server = serve(raw(400, b"no"))
    with pytest.raises(ServerError, match="400"):
        server_nll(server.url, SEQUENCES, model="mine")
    assert len(server.asked) == 1


def test_rounding_above_0_is_allowed(serve: Any) -> None:
    values = server_nll(serve(with_logprob(1e-6)).url, SEQUENCES)
    assert values[2][-1] == -1e-6


def test_after_an_error_the_other_sequences_are_not_sent(serve: Any) -> None:
    server = serve(with_logprob(0.5))
    with pytest.raises(ServerError):
        server_nll(server.url, [SEQUENCES[2], *[SEQUENCES[0]] * 500])
    time.sleep(0.2)
    assert len(server.asked) < 100


def test_a_key_comes_from_the_environment_and_stays_out_of_messages(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(honest)
    server_nll(server.url, SEQUENCES)
    assert not any("Authorization" in headers for *_, headers in server.asked)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another")
    monkeypatch.setenv(connection.KEY, "sk-secret\n")
    server = serve(lambda handler, _: handler.reply(403, b"key " + handler.headers["Authorization"].encode()))
    with pytest.raises(ServerError, match=r"answers 403 \(key Bearer \*\*\*\)") as caught:
        server_nll(server.url, SEQUENCES)
    assert server.asked[0][2]["Authorization"] == "Bearer sk-secret"
    assert "secret" not in str(caught.value)
    for broken in ("sk\nsecret", "sk-secrét"):
        monkeypatch.setenv(connection.KEY, broken)
        with pytest.raises(ValueError, match="`LORASCOPE_API_KEY` holds a character that no key has") as refused:
            server_nll(server.url, SEQUENCES)
        assert broken not in str(refused.value)


def test_a_redirect_is_not_followed(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(connection.KEY, "sk-secret")
    other = serve(honest)
    server = serve(lambda handler, _: handler.reply(308, b"", Location=other.url))
    with pytest.raises(ServerError, match="308"):
        server_nll(server.url, SEQUENCES)
    assert other.asked == []


@pytest.mark.parametrize(
    "url",
    [
        *(
            "localhost:8000",
            "ftp://host",
            "http://",
            "http://me:sk-secret@host",
            "http://host?key=x",
            "http://host#a",
            "",
        ),
        *("http://[::1", "http://host:99999"),
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="isn't a server's address; give one like `http://localhost:8000`") as caught:
        server_nll(url, SEQUENCES)
    assert "secret" not in str(caught.value)


def test_nobody_who_listens_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PAUSES", (20.0,))
    start = time.monotonic()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ServerError, match="ConnectionRefusedError.*look at the address"):
            server_nll(url, SEQUENCES)
    with pytest.raises(ServerError, match="gaierror.*look at the address"):
        server_nll("http://nowhere.invalid", SEQUENCES)
    assert time.monotonic() - start < 20


def test_a_certificate_that_nobody_vouches_for_is_refused(serve: Any, tmp_path: Path) -> None:
    server = serve(honest)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(tmp_path))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with pytest.raises(ServerError, match="SSLCertVerificationError") as caught:
        server_nll(server.url.replace("http:", "https:"), SEQUENCES)
    assert server.asked == []
    assert "\n" not in str(caught.value)


def _certificate(folder: Path) -> Path:
    """A key and a certificate that it signed itself, for 127.0.0.1."""
    import datetime
    import ipaddress

    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = folder / "certificate.pem"
    encoding = serialization.Encoding.PEM
    path.write_bytes(key.private_bytes(encoding, form, plain) + certificate.public_bytes(encoding))
    return path
