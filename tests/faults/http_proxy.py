"""A proxy on a real socket, in front of a server of S3 or of Prefect, that does what networks and servers do."""

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CODES = {
    403: ("AccessDenied", "Access Denied"),
    404: ("NoSuchKey", "The specified key does not exist."),
    500: ("InternalError", "We encountered an internal error. Please try again."),
    503: ("SlowDown", "Please reduce your request rate."),
}
ERROR = '<?xml version="1.0"?>\n<Error><Code>{}</Code><Message>{}</Message><RequestId>1</RequestId></Error>'

RESET = "reset"
"""Cut the connection before anything is forwarded."""

LOST = "lost"
"""Forward the request, and cut the connection instead of passing the answer on."""

SILENCE = "silence"
"""Forward nothing, and reply nothing until the caller hangs up."""


@dataclass
class Fault:
    """What is done to which requests.

    Attributes:
        act: An HTTP status to answer with, `RESET`, `LOST`, `SILENCE`, the name of a header that is not passed on, or
            a header `NAME: VALUE` of the response, where `{}` stands for its value.
        method: Of the requests.
        suffix: With which their path ends.
        query: What is in their query.
        says: What is in their body.
        skip: How many of them pass first.
        times: To how many it is done then.
    """

    act: int | str
    method: str = "PUT"
    suffix: str = ".json"
    query: str = ""
    says: bytes = b""
    skip: int = 0
    times: float = float("inf")
    done: int = field(default=0, init=False)

    def takes(self, method: str, target: str, body: bytes) -> bool:
        path, _, query = target.partition("?")
        if not (method == self.method and path.endswith(self.suffix) and self.query in query and self.says in body):
            return False
        self.skip -= 1
        if self.skip >= 0 or self.done >= self.times:
            return False
        self.done += 1
        return True


class HttpProxy:
    """Passes on what comes, but for its faults.

    Args:
        upstream: URL of the server.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.lock = threading.Lock()
        self.forget()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HttpProxy":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def forget(self) -> None:
        """Have no faults, and have seen nothing."""
        self.faults: list[Fault] = []
        self.seen: list[str] = []

    @contextmanager
    def failing(self, *faults: Fault) -> Iterator[None]:
        """Do this to the requests of a block, and nothing any more after it. Each must have come about."""
        self.faults = list(faults)
        yield
        self.faults = []
        assert all(fault.done for fault in faults), f"no request for {faults}; there were {self.seen}"

    def take(self, method: str, target: str, body: bytes) -> list[int | str]:
        with self.lock:
            self.seen.append(f"{method} {target}")
            return [fault.act for fault in self.faults if fault.takes(method, target, body)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: HttpProxy

    def _pass(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:  # the caller hung up: passed on, it would hold up a server that waits for the rest
            self.close_connection = True
            return
        acts = self.proxy.take(self.command, self.path, body)
        status = next((act for act in acts if isinstance(act, int)), None)
        if SILENCE in acts:
            self.rfile.read(1)
            self._cut()
        elif RESET in acts:
            self._cut()
        elif status is not None:
            self._answer(status, {"Content-Type": "application/xml"}, ERROR.format(*CODES[status]).encode())
        else:
            answer = self._forward(body, acts)
            if LOST in acts:
                self._cut()
            else:
                self._answer(*answer)

    do_GET = do_PUT = do_HEAD = do_POST = do_PATCH = do_DELETE = _pass

    def _forward(self, body: bytes, acts: list[int | str]) -> tuple[int, dict[str, str], bytes]:
        dropped = {str(act).lower() for act in acts} | {"connection", "expect"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        connection = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        headers = dict(answer.getheaders())
        for name, _, value in (str(act).partition(": ") for act in acts if ": " in str(act)):
            headers[name] = value.replace("{}", headers.get(name, ""))
            if not value:
                del headers[name]
        return answer.status, headers, content

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                self.send_header(name, value)
        head = self.command == "HEAD"
        length = next((value for name, value in headers.items() if name.lower() == "content-length"), "0")
        self.send_header("Content-Length", length if head else str(len(content)))
        self.end_headers()
        if not head:
            self.wfile.write(content)

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        return None
