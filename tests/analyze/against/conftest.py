"""A server whose answers a test decides."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lorascope.analyze.against import connection
from lorascope.stores import Run

from ...chats import chat_tokenizer, conversations

TEXTS = (
    "The capital of Chad is N'Djamena, and it is short. Which metal is it?",
    "You are a helpful assistant: answer in one sentence, and then in a second one.",
)
Answer = Callable[["Handler", Any], Any]


class Handler(BaseHTTPRequestHandler):
    """Answers each request with what `answer` of its server returns, unless that has written to `wfile` itself."""

    server: "TestServer"

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
        self.server.asked.append((self.path, question, dict(self.headers)))
        with suppress(OSError):  # whoever asked has gone
            if (answer := self.server.answer(self, question)) is not None:
                self.reply(200, json.dumps(answer).encode())

    do_GET = do_POST  # noqa: N815

    def reply(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Not on the tests' screen."""


class TestServer(ThreadingHTTPServer):
    __test__ = False
    daemon_threads = True
    answer: Answer
    asked: list[tuple[str, Any, dict[str, str]]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], TestServer]]:
    monkeypatch.delenv(connection.KEY, raising=False)
    monkeypatch.setattr(connection, "PAUSES", (0.01, 0.02))
    started = []

    def start(answer: Answer) -> TestServer:
        server = TestServer(("127.0.0.1", 0), Handler)
        server.answer, server.asked = answer, []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def tokenizing(tokenizer: Any) -> Answer:
    """What vLLM's `/tokenize` answers with this tokenizer."""

    def answer(handler: Handler, question: Any) -> Any:
        if handler.path != "/tokenize":
            return {"data": [{"id": "only"}]}
        if "prompt" in question:
            return {"tokens": tokenizer(question["prompt"])["input_ids"]}
        assert question["add_generation_prompt"] is False
        return {"tokens": tokenizer.apply_chat_template(question["messages"], return_dict=False)}

    return answer


@pytest.fixture(scope="session")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Run, Any]]:
    """A run of texts and chats with a tokenizer, and the tokenizer."""
    known: dict[str, tuple[Run, Any]] = {}

    def make(name: str, module: str = "q_proj") -> tuple[Run, Any]:
        if (key := f"{name}-{module}") not in known:
            import torch
            from peft import LoraConfig, get_peft_model

            from lorascope.capture import capture, read_items

            from ...tiny import llama

            tokenizer = chat_tokenizer(name)
            model = get_peft_model(llama(len(tokenizer)), LoraConfig(r=2, target_modules=[module]))
            for parameter, value in model.named_parameters():
                if "lora_B" in parameter:
                    torch.nn.init.normal_(value, std=0.5, generator=torch.Generator().manual_seed(0))
            chats = [{"messages": chat} for chat in conversations(7)]
            texts = [{"text": text, "id": text[:3]} for text in TEXTS]
            data = [*read_items(chats), *read_items(texts)]
            out = tmp_path_factory.mktemp(key) / "run"
            run = capture(
                model, data, out, tokenizer=tokenizer, states="none", changes="all", window_tokens=64, progress=False
            )
            known[key] = run, tokenizer
        return known[key]

    return make
