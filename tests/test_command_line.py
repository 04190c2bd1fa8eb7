"""`python -m prefect_xai_video receipts`, as a person types it."""

import os
import subprocess
import sys

import pytest

from prefect_xai_video.errors import SubmissionUnknown
from prefect_xai_video.receipts import Receipt
from prefect_xai_video.requests import build_request
from prefect_xai_video.stores import S3Store, open_store

REQUEST = build_request("A cat", duration=1)


def receipts(*arguments, **env):
    command = [sys.executable, "-m", "prefect_xai_video", "receipts", *arguments]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | env)
    return ended.stdout if ended.returncode == 0 else ended.stderr


async def fill(store):
    await store.create(Receipt.claim("dogs/two", REQUEST).submitted("id-2"))
    await store.create(Receipt.claim("cats/one", REQUEST).unknown(SubmissionUnknown("The reply was lost.")))


async def test_receipts_are_listed_by_state_with_what_can_be_done(directory, tmp_path):
    await fill(open_store(directory, tmp_path))
    (tmp_path / "store" / "bad.json").write_text("{")
    said = receipts(str(directory.basepath)).splitlines()
    assert [line.partition(" (")[0] for line in said if not line.startswith(" ")] == [
        "submitted",
        "unknown",
        "unreadable",
    ]
    assert said[0] == "submitted (1): run again with this key: it goes on waiting, without paying"
    assert said[1].split()[0] == "dogs/two"
    assert said[1].endswith("request id-2  about $0.05")
    assert 'on_unknown="resubmit"' in said[2]
    assert said[3].endswith("request id unknown  about $0.05  The reply was lost.")
    assert "bad.json can't be read" in said[5]


async def test_one_state_can_be_asked_for(directory, tmp_path):
    await fill(open_store(directory, tmp_path))
    said = receipts(str(directory.basepath), "--state", "unknown")
    assert "cats/one" in said
    assert "dogs/two" not in said


async def test_receipts_of_a_bucket_are_listed_under_a_prefix(bucket, s3_url):
    await fill(S3Store(bucket))
    env = {
        "AWS_ACCESS_KEY_ID": "access",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_url,
    }
    said = receipts(f"s3://{bucket.bucket_name}/{bucket.bucket_folder}/cats/", **env)
    assert "cats/one" in said
    assert "dogs/two" not in said


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere"], "no receipts here"),
        (["--block", "s3-bucket/nobody"], "receipts: "),
        (["--state", "paid"], "paid"),
    ],
)
def test_what_is_not_there_is_one_sentence(arguments, text, tmp_path):
    said = receipts(*arguments, PREFECT_HOME=str(tmp_path), PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120")
    assert text in said
    assert "Traceback" not in said
