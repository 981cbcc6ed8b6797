"""A real HTTP server that answers as a judge would, or misbehaves as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from squeeze.bench.judge import Judge, Rating
from squeeze.bench.judge_endpoint import Endpoint
from squeeze.bench.judge_prompts import Conversation

KEY = "sk-secret-0123456789abcdef"
VERDICT = {"first_reason": "좋음", "first_rating": 7, "second_reason": "보통", "second_rating": 4}
RATED = Rating(first=7, second=4)


@dataclass
class Reply:
    """What the server does with a request. status 0: it drops the connection."""

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    after_s: float = 0.0


def said(content: Any, reason: str = "stop") -> Reply:
    """A whole chat completion; content: its text, or what is to be written as JSON."""
    text = content if isinstance(content, str) or content is None else json.dumps(content, ensure_ascii=False)
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}
    return Reply(body=json.dumps({"object": "chat.completion", "choices": [choice]}))


def fault(status: int, message: str = "no", headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
    return Reply(status, json.dumps({"error": {"message": message, **more}}), headers or {})


class Server:
    """A real endpoint. ``replies`` are used up in order; then ``answer`` says what each request gets."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.answer: Callable[[dict[str, Any]], Reply] = lambda asked: said(VERDICT)
        self.asked: list[dict[str, Any]] = []
        self.headers: list[Message] = []
        self.most = self._now = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with server._lock:
                    server._now += 1
                    server.most = max(server.most, server._now)
                    server.asked.append(asked)
                    server.headers.append(self.headers)
                    reply = server.replies.pop(0) if server.replies else server.answer(asked)
                time.sleep(reply.after_s)
                with server._lock:
                    server._now -= 1
                if reply.status == 0:
                    self.close_connection = True
                    self.connection.close()
                    return
                body = reply.body.encode()
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A dropped connection is meant."""

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def judging(server: Server, cache: Path, waits: list[float], **settings: Any) -> Judge:
    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    return Judge(Endpoint(base_url=server.url, model="fair", **settings), cache, sleep=sleep)


def talk(number: int = 81, first: str = "첫 답입니다.", second: str = "둘째 답입니다.") -> Conversation:
    return Conversation(number=number, turns=("무엇인가요?", "더 알려 주세요."), answers=(first, second))
