"""How much resident memory grows while a file of 200 MB is stored: at most 48 MB, locally and to S3.

The file comes from a server in another process, so that only the storing side is measured; the peak is read from
the kernel (VmHWM), after a file of 10 MB has warmed everything up.
"""

import asyncio
import re
import sys
import tempfile
import time
from pathlib import Path

from prefect.filesystems import LocalFileSystem
from prefect_aws import S3Bucket
from servers import bucket, prints_its_url
from size import is_small

from prefect_xai_video import Receipt, TextRequest, VideoStatus, XaiVideoClient
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.orchestration.storage import open_store

SIZE = 200 * 10**6
SMALL_SIZE = 60 * 10**6
MAX_GROWN = 48
SERVER = """
import http.server
BEFORE = bytes.fromhex("00000018") + b"ftypmp42" + bytes(12) + bytes.fromhex("00000008") + b"moov"

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        size = int(self.path.strip("/").split(".")[0])
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", str(size))
        self.end_headers()
        left = size - len(BEFORE)
        self.wfile.write(BEFORE + left.to_bytes(4, "big") + b"mdat")
        left -= 8
        while left:
            left -= self.wfile.write(bytes(min(left, 65536)))

    def log_message(self, *_): pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""
"""Serves an MP4 of each size, `/1000.mp4`: the boxes it has to have, and zeros."""


def resident(what: str) -> float:
    """Megabytes of this process: VmRSS is now, VmHWM the peak since the last reset."""
    return int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1000


async def save(storage: S3Bucket | LocalFileSystem, url: str, key: str) -> None:
    """Store a video that is done, as the flow does it."""
    status = VideoStatus(request_id="id", state="done", url=url)
    receipt = Receipt.claim(key, TextRequest(prompt="A cat")).submitted("id").finished(status)
    async with XaiVideoClient("key", url.rpartition("/")[0]) as client:
        store = open_store(storage, Path.cwd())
        await store.create(receipt)
        await Generation(client, store).save(key)


def measure(name: str, storage: S3Bucket | LocalFileSystem, server: str, size: int) -> float:
    """Store a file, and say by how many megabytes that made this process grow."""
    asyncio.run(save(storage, f"{server}/10000000.mp4", "warm"))
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    began = time.perf_counter()
    asyncio.run(save(storage, f"{server}/{size}.mp4", "large"))
    taken = time.perf_counter() - began
    grown = resident("VmHWM") - before
    print(f"{name:10} {size / 1e6:.0f} MB in {taken:.1f} s, peak resident memory +{grown:.0f} MB")
    return grown


def main() -> None:
    size = SMALL_SIZE if is_small(__doc__) else SIZE
    with (
        prints_its_url("-c", SERVER) as server,
        tempfile.TemporaryDirectory() as directory,
        bucket() as s3,
    ):
        storages = {"directory": LocalFileSystem(basepath=directory), "S3": s3}
        grown = [measure(name, storage, server, size) for name, storage in storages.items()]
    if max(grown) > MAX_GROWN:
        sys.exit(f"Resident memory grew by more than {MAX_GROWN} MB.")


if __name__ == "__main__":
    main()
