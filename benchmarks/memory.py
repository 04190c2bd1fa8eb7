"""How much resident memory grows while a 200 MB file is stored: at most 48 MB, locally and to S3.

The file comes from a server in another process, so that only the storing side is measured; the peak is read from
the kernel (VmHWM), after a small file has warmed everything up.
"""

import asyncio
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

from prefect.filesystems import LocalFileSystem
from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters

from prefect_xai_video import Receipt, TextRequest, VideoStatus, XaiVideoClient
from prefect_xai_video.generation import Generation
from prefect_xai_video.stores import open_store

SIZE = 200 * 10**6
SERVER = """
import http.server, sys
HEAD = b"\\0\\0\\0\\x18ftypmp42"
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        size = int(self.path.strip("/").split(".")[0])
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(HEAD)
        left = size - len(HEAD)
        while left:
            left -= self.wfile.write(bytes(min(left, 65536)))
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def resident(what: str) -> float:
    """Megabytes of this process: VmRSS is now, VmHWM the peak since the last reset."""
    return int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1000


@contextmanager
def files():
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    process.kill()
    process.wait()


@contextmanager
def bucket():
    port = 8931
    command = [Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        with suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/").close()
            break
        time.sleep(0.1)
    credentials = AwsCredentials(
        aws_access_key_id="access",
        aws_secret_access_key="secret",
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(
            endpoint_url=f"http://127.0.0.1:{port}", config={"s3": {"addressing_style": "path"}}
        ),
    )
    credentials.get_s3_client().create_bucket(Bucket="videos")
    yield S3Bucket(bucket_name="videos", credentials=credentials)
    process.kill()
    process.wait()


async def save(storage: S3Bucket | LocalFileSystem, url: str, key: str) -> None:
    """Store a video that is done, as the flow does it."""
    status = VideoStatus(request_id="id", state="done", url=url)
    receipt = Receipt.claim(key, TextRequest(prompt="A cat")).submitted("id").answered(status)
    async with XaiVideoClient("key", url.rpartition("/")[0]) as client:
        store = open_store(storage, Path.cwd())
        await store.create(receipt)
        await Generation(client, store).save(key)


def measure(name: str, storage: S3Bucket | LocalFileSystem, server: str) -> None:
    asyncio.run(save(storage, f"{server}/10000000.mp4", "warm"))
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    began = time.perf_counter()
    asyncio.run(save(storage, f"{server}/{SIZE}.mp4", "large"))
    taken = time.perf_counter() - began
    grown = resident("VmHWM") - before
    print(f"{name:10} {SIZE / 1e6:.0f} MB in {taken:.1f} s, peak resident memory +{grown:.0f} MB  (at most 48)")


def main() -> None:
    with files() as server, tempfile.TemporaryDirectory() as directory, bucket() as s3:
        measure("directory", LocalFileSystem(basepath=directory), server)
        measure("S3", s3, server)


if __name__ == "__main__":
    main()
