import base64
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import pytest

from prefect_xai_video.emulator import Emulator

from .emulator_api import Api


@pytest.fixture(scope="session")
def emulator():
    """An emulator that renders fast and accepts any key."""
    with Emulator(render_seconds=0.05) as running:
        yield running


@pytest.fixture(scope="session")
def api(emulator):
    client = Api(emulator.base_url)
    yield client
    client.close()


@contextmanager
def start(**options):
    """Start an emulator of its own kind and provide the calls on it."""
    with Emulator(**{"render_seconds": 0.05} | options) as emulator:
        client = Api(emulator.base_url)
        client.emulator = emulator
        yield client
        client.close()


@pytest.fixture
def running():
    """Starts an emulator of its own kind and gives the calls on it."""
    return start


@pytest.fixture(scope="module")
def light():
    """An emulator in the light mode."""
    with start(light=True) as api:
        yield api


class Clock:
    """The monotonic clock of emulators, which goes on only when a test says so. It starts with a second."""

    def __init__(self):
        self.now = float(int(time.monotonic()))

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """Stops the clock by which emulators date renders, URLs and requests."""
    clock = Clock()
    for module in ("videos", "rate"):
        monkeypatch.setattr(f"prefect_xai_video.emulator.{module}.time", clock)
    return clock


@pytest.fixture(scope="session")
def red_png(tmp_path_factory) -> bytes:
    """A red picture that is twice as high as it is wide."""
    frame = av.VideoFrame(64, 128, "rgb24")
    plane = frame.planes[0]
    plane.update((b"\xe0\x10\x10" * 64).ljust(plane.line_size, b"\0") * 128)
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    frame.save(path)
    return path.read_bytes()


@pytest.fixture(scope="session")
def red_url(red_png) -> str:
    return f"data:image/png;base64,{base64.b64encode(red_png).decode()}"


@pytest.fixture(scope="session")
def clip(api) -> bytes:
    """A clip of 2 seconds in 640x480."""
    return api.clip(prompt="the input clip", duration=2, aspect_ratio="4:3")


@pytest.fixture(scope="session")
def clip_url(clip) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(clip).decode()}"


class LocalServer:
    """Serves what is in `files`, while its gate is open, and keeps what is put to it."""

    def __init__(self, url):
        self.url = url
        self.files = {}
        self.puts = []
        self.put_status = 200
        self.gets = []
        self.gate = threading.Event()
        self.gate.set()


@pytest.fixture
def local_server():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            local.gets.append(self.path)
            local.gate.wait(60)
            content = local.files.get(self.path)
            self.answer(404 if content is None else 200, content or b"")

        def do_PUT(self):
            content = self.rfile.read(int(self.headers["Content-Length"]))
            local.puts.append((self.path, dict(self.headers), content))
            self.answer(local.put_status)

        def answer(self, status, content=b""):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    local = LocalServer(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield local
    server.shutdown()
    server.server_close()
