"""Makes one video with the engine, together with others: `racing.py <JSON>`.

The JSON holds `prompt`, `key`, `store`, `base_url` and `result`, a file for the video or the error. `gate` is a
directory through which as many as `racers` pass at the same moment. Who comes `after` a marker of `pausing.py` finds
old claims, sends again if `on_unknown` says so, ends after `steps`, and only then lets the other one go on.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters

from prefect_xai_video import XaiVideoClient
from prefect_xai_video.api.options import build_request
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.engine.stores.bucket import S3Store
from prefect_xai_video.errors import XaiVideoError

from ..support.api_key import API_KEY
from . import pausing

SCHEDULE = PollSchedule(first=0.1, shortest=0.1, longest=0.5)


def open_store(root: str | None, s3_url: str, bucket: str, folder: str):
    if root:
        return LocalStore(Path(root))
    parameters = AwsClientParameters(endpoint_url=s3_url, config={"s3": {"addressing_style": "path"}})
    aws = AwsCredentials(
        aws_access_key_id="access",
        aws_secret_access_key="secret",
        region_name="us-east-1",
        aws_client_parameters=parameters,
    )
    return S3Store(S3Bucket(bucket_name=bucket, credentials=aws, bucket_folder=folder))


def until(condition):
    while not condition():
        time.sleep(0.002)


async def make(racer) -> object:
    request = build_request(racer["prompt"], duration=1)
    store = open_store(**racer["store"])
    async with XaiVideoClient(API_KEY, racer["base_url"]) as client:
        engine = Generation(client, store, SCHEDULE)
        await store.read(racer["key"])
        pass_gate(racer)
        try:
            await engine.start(request, racer["key"], on_unknown=racer.get("on_unknown", "raise"))
            if racer.get("steps") == "start":
                return None
            await engine.wait(racer["key"], timeout=60)
            return (await engine.save(racer["key"])).model_dump(mode="json")
        except XaiVideoError as error:
            return type(error).__name__


def pass_gate(racer):
    if "gate" in racer:
        gate = Path(racer["gate"])
        (gate / str(os.getpid())).touch()
        until(lambda: len(list(gate.iterdir())) == racer["racers"])
    if "after" in racer:
        os.environ["PAUSE_MARKER"] = racer["after"]
        until(Path(racer["after"]).exists)
        pausing.arm()


racer = json.loads(sys.argv[1])
Path(racer["result"]).write_text(json.dumps(asyncio.run(make(racer))))
if "after" in racer:
    Path(racer["after"]).with_suffix(".go").touch()
