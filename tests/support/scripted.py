"""A real server on a real socket that answers exactly the bytes it was given, and can fail in between them."""

import itertools
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

CUT = object()
"""Instead of an answer: read the request, then cut the connection."""

SILENCE = object()
"""Instead of an answer: read the request, and never answer."""


def box(name: bytes, content: bytes = b"") -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + name + content


def mp4(content: bytes = b"") -> bytes:
    """The least that has the form of an MP4: a file type, a table of contents, and any content."""
    return box(b"ftyp", b"mp42" + bytes(12)) + box(b"moov") + box(b"mdat", content)


def answer(status: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """One HTTP answer; `length` makes Content-Length lie."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


class Trickle:
    """Instead of an answer: bytes, and then more of them for as long as they are read."""

    def __init__(self, head: bytes, more: bytes) -> None:
        self.head, self.more = head, more


NOT_HERE = answer("404 Not Found")


class ScriptedServer:
    """Answers one connection after the other with the next piece of its script.

    A piece is the bytes of an answer, `CUT`, `SILENCE`, a `Trickle`, or a function that is called to get one of
    these. `GET /me` is no part of the script: it always gets `me`, unless that is None. What comes after the end of
    the script is cut.
    """

    def __init__(self, script: Iterable[object], me: bytes | None = NOT_HERE) -> None:
        self._me = me
        self._script = list(script)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.requests: list[str] = []
        self.received = b""
        self.accepted = threading.Event()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def extend(self, script: Iterable[object]) -> None:
        """Add to the script, for answers that name the server's own URL; before they are due."""
        self._script.extend(script)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._socket.close()
        for connection in self._open:
            connection.close()

    def _serve(self) -> None:
        for number in itertools.count():
            try:
                connection, request = self._next()
            except OSError:
                return
            with suppress(OSError):
                self.requests.append(request)
                piece = self._script[number] if number < len(self._script) else CUT
                step = piece() if callable(piece) else piece
                if isinstance(step, bytes):
                    connection.sendall(step)
                if isinstance(step, Trickle):
                    self._trickle(connection, step)
                if step is not SILENCE:
                    connection.shutdown(socket.SHUT_RDWR)
                    connection.close()

    def _trickle(self, connection: socket.socket, trickle: Trickle) -> None:
        connection.sendall(trickle.head)
        while True:
            connection.sendall(trickle.more)
            time.sleep(0.02)

    def _next(self) -> tuple[socket.socket, str]:
        """The next whole request that the script is for."""
        while True:
            connection, _ = self._socket.accept()
            self._open.append(connection)
            self.accepted.set()
            with suppress(OSError):
                request = self._read(connection)
                if self._me is None or not request.startswith("GET /v1/me "):
                    return connection, request
                connection.sendall(self._me)
                connection.close()

    def _read(self, connection: socket.socket) -> str:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._received(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")),
            0,
        )
        while len(body) < length:
            body += self._received(connection)
        return (head + b"\r\n\r\n" + body).decode()

    def _received(self, connection: socket.socket) -> bytes:
        data = connection.recv(65536)
        if not data:
            raise ConnectionResetError
        self.received += data
        return data
