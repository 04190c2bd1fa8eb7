"""Calls the flow as a script does, and writes how it ended: `calling.py <parameters as JSON> <file>`."""

import json
import sys
from pathlib import Path

from prefect_aws import S3Bucket

from prefect_xai_video import generate_video
from prefect_xai_video.errors import XaiVideoError

parameters, outcome = json.loads(sys.argv[1]), Path(sys.argv[2])
bucket = parameters.pop("bucket")
try:
    generate_video(**parameters, storage=S3Bucket.load(bucket) if bucket else None)
except XaiVideoError as error:
    outcome.write_text(type(error).__name__)
else:
    outcome.write_text("stored")
