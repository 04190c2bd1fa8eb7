"""Calls on an emulator over real HTTP."""

import base64
import io
import itertools
import time
from typing import NamedTuple

import av
import httpx

KEY = "xai-a-key-that-must-never-be-logged"
CAT = {"prompt": "A cat", "duration": 1, "aspect_ratio": "1:1", "generate_audio": False}
"""A request that is quickly drawn, for tests that do not look at the picture."""


class Api:
    def __init__(self, base_url: str, key: str = KEY):
        self.base_url = base_url
        # Certificates would only take time to load.
        options = {"base_url": base_url, "timeout": 60, "verify": False}
        self.http = httpx.Client(headers={"Authorization": f"Bearer {key}"}, **options)
        self.anonymous = httpx.Client(**options)

    def close(self):
        self.http.close()
        self.anonymous.close()

    def post(self, kind="generations", **body) -> httpx.Response:
        return self.http.post(f"/videos/{kind}", json=body)

    def submit(self, kind="generations", **body) -> str:
        response = self.post(kind, **body)
        assert response.status_code == 200, response.text
        return response.json()["request_id"]

    def poll(self, request_id) -> httpx.Response:
        return self.http.get(f"/videos/{request_id}")

    def wait(self, request_id) -> httpx.Response:
        """Poll until the render is over."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            response = self.poll(request_id)
            if response.status_code != 202:
                return response
            time.sleep(0.03)
        raise TimeoutError(request_id)

    def make(self, kind="generations", **body) -> httpx.Response:
        """Submit and poll until the render is over."""
        return self.wait(self.submit(kind, **body))

    def url(self, kind="generations", **body) -> str:
        response = self.make(kind, **body)
        assert response.json().get("status") == "done", response.text
        return response.json()["video"]["url"]

    def clip(self, kind="generations", **body) -> bytes:
        return self.anonymous.get(self.url(kind, **body)).content

    def row(self, request_id) -> dict:
        """The row of a request in the ledger."""
        return next(row for row in self.ledger()["requests"] if row["request_id"] == request_id)

    def ledger(self) -> dict:
        return self.anonymous.get(self.base_url.removesuffix("/v1") + "/emulator/ledger").json()


def grey_clip(seconds, size) -> str:
    """A clip of two grey frames a second, as a data: URL."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=2, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(2 * seconds):
            container.mux(stream.encode(av.VideoFrame(*size, "yuv420p")))
        container.mux(stream.encode())
    return f"data:video/mp4;base64,{base64.b64encode(file.getvalue()).decode()}"


def frames_of(clip: bytes) -> list:
    with av.open(io.BytesIO(clip)) as container:
        return list(container.decode(video=0))


def colours_of(frame, columns=8, rows=8, hidden=3) -> list[int]:
    """The mean colours of the fields of a grid below the bar of text, as a flat list of red, green and blue."""
    small = frame.reformat(columns, rows, "rgb24", interpolation="AREA")
    plane = small.planes[0]
    content = bytes(plane)
    lines = [content[row * plane.line_size :][: 3 * columns] for row in range(hidden, rows)]
    return [value for line in lines for value in line]


class Bar(NamedTuple):
    """The brightness of the pixels in the parts of the bar along the top of a clip."""

    word: list[int]
    seconds: list[int]
    prompt: list[int]


def bar_of(frame) -> Bar:
    """What is written on a frame. A line is a 14th of the shorter side."""
    line = min(frame.width, frame.height) // 14
    plane = frame.reformat(format="gray").planes[0]
    rows = [bytes(plane)[start:][: frame.width] for start in range(0, plane.buffer_size, plane.line_size)]
    first, more = rows[line // 3 : line // 3 + line], rows[line // 3 + line : line // 3 + 3 * line]
    return Bar(
        [value for row in first for value in row[: 5 * line]],
        [value for row in first for value in row[-5 * line :]],
        [value for row in more for value in row],
    )


def distance(one: list[int], other: list[int]) -> float:
    """The mean difference of two lists of colours or brightnesses: 0 for equal ones, at most 255."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


_numbers = itertools.count()


def faulty(*faults: str) -> dict:
    """A request like no other, with faults: those of submissions are counted by its body."""
    return CAT | {"prompt": " ".join(["Cat", str(next(_numbers)), *(f"[fault:{fault}]" for fault in faults)])}
