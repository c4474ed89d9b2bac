"""A server with OpenAI's interface for tests, in this process, that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[["Handler"], None]


def chat_completion(text: str | None, **message: Any) -> bytes:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def status(code: int, data: bytes = b'{"error": {"message": "so sorry"}}', **headers: str) -> Fault:
    return lambda handler: handler.send(data, code, headers)


def says(data: bytes) -> Fault:
    return lambda handler: handler.send(data)


def slow(seconds: float) -> Fault:
    return lambda handler: time.sleep(seconds) or handler.send(chat_completion("too late"))


def endless(handler: Handler) -> None:
    """Promises a lot, and sends some of it again and again until the client goes."""
    handler.send(b"[", length=1 << 20)
    while True:
        time.sleep(0.05)
        handler.wfile.write(b" ")


def cut(handler: Handler) -> None:
    """Promises more than it sends."""
    handler.send(chat_completion("half")[:20], length=1000)
    handler.close_connection = True


def silent_cut(handler: Handler) -> None:
    handler.close_connection = True


FAULTS: dict[str, Fault] = {
    "429": status(429, **{"Retry-After": "0.01"}),
    "500": status(500),
    "503 in HTML": status(503, b"<html>down</html>"),
    "broken JSON": says(b'{"choices": [{"mess'),
    "other JSON": says(b"[1, 2]"),
    "an error with status 200": says(b'{"error": {"message": "overloaded"}}'),
    "no choices": says(b'{"choices": []}'),
    "no content": says(chat_completion(None)),
    "content that is no text": says(chat_completion(None).replace(b'"content": null', b'"content": [7]')),
    "cut": cut,
    "silent cut": silent_cut,
    "slow": slow(1.4),
}


class FakeServer:
    """Answers `reply(body)`; a request body has `faults[i]` as its attempt number i, if there are so many.

    Attributes:
      url: its address. bodies, headers: of everything that was asked, in order.
    """

    def __init__(self, reply: Callable[[dict[str, Any]], str], faults: Callable[[dict[str, Any]], Sequence[Fault]]):
        self.reply, self.faults = reply, faults
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.attempts: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.under_way = self.most_under_way = 0
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.fake = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: FakeServer = self.server.fake  # type: ignore[attr-defined]
        raw = self.rfile.read(int(self.headers["Content-Length"])).decode()
        body = json.loads(raw)
        with server.lock:
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            attempt = server.attempts[raw]
            server.attempts[raw] += 1
        faults = server.faults(body)
        try:
            if self.path != "/v1/chat/completions":
                self.send(b"no such page", 404)
            elif attempt < len(faults):
                faults[attempt](self)
            else:
                self.send(chat_completion(server.reply(body)))
        except OSError:  # the client has gone
            self.close_connection = True
        finally:
            with server.lock:
                server.under_way -= 1

    def send(self, data: bytes, code: int = 200, headers: dict[str, str] | None = None, length: int = 0) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length or len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def last_message(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


@contextlib.contextmanager
def chat_server(
    reply: Callable[[dict[str, Any]], str] = last_message,
    faults: Callable[[dict[str, Any]], Sequence[Fault]] = lambda body: (),
) -> Iterator[FakeServer]:
    """Runs one; without a `reply` it repeats what it is told."""
    server = FakeServer(reply, faults)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
