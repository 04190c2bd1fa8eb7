"""Direct delivery: xAI puts the video into the bucket by itself."""

import asyncio
import hashlib
import logging

import pytest
from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters

from prefect_xai_video import Retries, XaiVideoClient
from prefect_xai_video.api.options import build_request
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.engine.stores.base import delivery_name
from prefect_xai_video.engine.stores.bucket import S3Store
from prefect_xai_video.errors import (
    DownloadError,
    InvalidRequest,
    StorageError,
    SubmissionUnknown,
    VideoFailed,
    VideoModerated,
)

from ..support.api_key import API_KEY
from ..support.scripted import mp4

SCHEDULE = PollSchedule(first=0.1, shortest=0.05, longest=0.2)


@pytest.fixture
async def engine(emulator, bucket):
    quick = Retries(attempts=2, first_wait=0.01, longest_wait=0.02)
    async with XaiVideoClient(API_KEY, emulator.base_url, retries=quick) as client:
        yield Generation(client, S3Store(bucket), SCHEDULE)


@pytest.fixture
def objects(bucket, aws):
    """Lists the names in the bucket's folder."""

    def names() -> list[str]:
        found = aws.get_s3_client().list_objects_v2(Bucket="videos", Prefix=f"{bucket.bucket_folder}/")
        return sorted(entry["Key"].removeprefix(f"{bucket.bucket_folder}/") for entry in found.get("Contents", ()))

    return names


def asked(text, duration=1):
    return build_request(text, duration=duration)


async def make(engine, key, text, **options):
    await engine.start(asked(text), key, delivery="direct", **options)
    await engine.wait(key, timeout=20)
    return await engine.save(key)


def row(emulator, fault):
    return next(row for row in emulator.ledger()["requests"][::-1] if fault in row["faults"])


async def test_the_video_is_delivered_to_the_bucket_and_nothing_is_downloaded(engine, emulator, bucket, aws, objects):
    before = len(emulator.requests())
    video = await make(engine, "cats/one", "A cat, delivered")
    stored = aws.get_s3_client().get_object(Bucket="videos", Key=f"{bucket.bucket_folder}/cats/one.mp4")
    content = stored["Body"].read()
    assert (video.size, video.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (stored["ContentType"], stored["Metadata"]) == ("video/mp4", {"request-id": video.request_id})
    assert str(video.cost_usd) == "0.05"
    assert objects() == ["cats/one.json", "cats/one.mp4"]
    assert not [request for request in emulator.requests()[before:] if "xai-vidgen" in request["path"]]


async def test_the_upload_url_is_signed_for_mp4_and_outlives_a_queue(engine, emulator):
    await engine.start(asked("A signed cat"), "cat", delivery="direct")
    url = emulator.requests()[-1]["body"]["output"]["upload_url"]
    assert "X-Amz-Expires=21600" in url
    assert "X-Amz-SignedHeaders=content-type%3Bhost" in url
    receipt = (await engine.store.read("cat")).receipt
    assert delivery_name("cat", receipt.attempt.claim) in url
    assert "X-Amz" not in receipt.to_json().decode()


@pytest.mark.parametrize("fault", ["start-accepted-cut", "start-accepted-502", "start-accepted-unreadable"])
async def test_a_submission_whose_reply_was_lost_is_recognised_by_its_video(engine, submissions, fault, caplog):
    video = await make(engine, "cat", f"A cat [fault:{fault}]")
    # The file itself tells how long it is.
    assert (video.request_id, video.cost_usd, video.duration) == (None, None, 1)
    assert video.size > 1000
    assert submissions() == 1
    assert await make(engine, "cat", f"A cat [fault:{fault}]") == video
    assert submissions() == 1


async def test_the_next_run_also_waits_for_the_video_of_a_lost_response(engine, emulator, submissions, monkeypatch):
    monkeypatch.setattr(emulator._service.production, "_render_seconds", 3)
    text = "A late cat [fault:start-accepted-cut]"
    await engine.start(asked(text), "cat", delivery="direct")
    with pytest.raises(SubmissionUnknown):
        await engine.wait("cat", timeout=0.01)
    assert (await make(engine, "cat", text)).size > 1000
    assert submissions() == 1


async def test_a_resubmission_finds_the_video_that_was_delivered_meanwhile(engine, submissions, objects):
    text = "Again a cat [fault:start-accepted-cut]"
    await engine.start(asked(text), "cat", delivery="direct")
    while not [name for name in objects() if name.endswith(".mp4")]:
        await asyncio.sleep(0.05)
    assert (await engine.start(asked(text), "cat", on_unknown="resubmit")).state == "done"
    assert (await engine.save("cat")).request_id is None
    assert submissions() == 1


async def test_a_submission_that_delivers_nothing_stays_unknown(engine, submissions):
    text = "A lost cat [fault:start-cut]"
    await engine.start(asked(text), "cat", delivery="direct")
    with pytest.raises(SubmissionUnknown, match="adopt its request id") as caught:
        await engine.wait("cat", timeout=0.5)
    assert caught.value.key == "cat"
    assert (await make(engine, "cat", text, on_unknown="resubmit")).size > 1000
    assert submissions() == 2


async def test_a_video_that_xai_returns_as_a_url_is_downloaded(engine, submissions, objects):
    video = await make(engine, "cat", "A cat [fault:upload-skipped]")
    assert video.request_id
    assert objects() == ["cat.json", "cat.mp4"]
    assert submissions() == 1


async def test_an_upload_that_fails_is_a_failed_video(engine):
    with pytest.raises(VideoFailed, match="403") as caught:
        await make(engine, "cat", "A cat [fault:upload-failed]")
    assert caught.value.request_id


async def test_a_missing_delivery_is_an_error(engine, bucket, aws, objects):
    await engine.start(asked("A vanished cat"), "cat", delivery="direct")
    await engine.wait("cat", timeout=20)
    delivered = next(name for name in objects() if name.endswith(".mp4"))
    aws.get_s3_client().delete_object(Bucket="videos", Key=f"{bucket.bucket_folder}/{delivered}")
    with pytest.raises(DownloadError, match="it is not in the store") as caught:
        await engine.save("cat")
    assert caught.value.request_id


@pytest.mark.parametrize("part", [0, 16, 0.5])
async def test_a_delivery_must_be_a_complete_video(engine, bucket, aws, objects, part):
    await engine.start(asked(f"No cat {part}"), "cat", delivery="direct")
    await engine.wait("cat", timeout=20)
    place = f"{bucket.bucket_folder}/{next(name for name in objects() if name.endswith('.mp4'))}"
    whole = aws.get_s3_client().get_object(Bucket="videos", Key=place)["Body"].read()
    cut = whole[: part if isinstance(part, int) else len(whole) // 2]
    aws.get_s3_client().put_object(Bucket="videos", Key=place, Body=cut)
    with pytest.raises(DownloadError, match="it is not in the store"):
        await engine.save("cat")
    aws.get_s3_client().put_object(Bucket="videos", Key=place, Body=whole)
    assert (await engine.save("cat")).size == len(whole)


async def test_an_empty_object_is_not_the_video_of_a_lost_submission(engine, bucket, aws):
    text = "A cat without a body [fault:start-cut]"
    receipt = await engine.start(asked(text), "cat", delivery="direct")
    place = f"{bucket.bucket_folder}/{delivery_name('cat', receipt.attempt.claim)}"
    aws.get_s3_client().put_object(Bucket="videos", Key=place, Body=b"")
    with pytest.raises(SubmissionUnknown):
        await engine.wait("cat", timeout=0.3)


async def test_the_id_of_a_lost_submission_that_was_adopted_finds_its_delivery(engine, emulator, submissions):
    await engine.start(asked("An adopted cat [fault:start-accepted-cut]"), "cat", delivery="direct")
    found = emulator.ledger()["requests"][-1]["request_id"]
    receipt = await engine.adopt(found, "cat")
    assert (receipt.state, len(receipt.attempts)) == ("submitted", 1)
    before = len(emulator.requests())
    await engine.wait("cat", timeout=20)
    video = await engine.save("cat")
    assert (video.request_id, str(video.cost_usd)) == (found, "0.05")
    assert not [request for request in emulator.requests()[before:] if "xai-vidgen" in request["path"]]
    assert submissions() == 1


async def test_the_id_of_a_delivered_video_can_be_added(engine, emulator):
    video = await make(engine, "cat", "A nameless cat [fault:start-accepted-cut]")
    assert video.request_id is None
    found = emulator.ledger()["requests"][-1]["request_id"]
    assert (await engine.adopt(found, "cat")).state == "stored"
    assert (await engine.save("cat")).request_id == found


async def test_the_delivery_of_a_lost_submission_counts_if_the_next_one_fails(engine, emulator, submissions):
    lost, blocked = "One cat [fault:start-accepted-cut]", "[fault:moderated]"
    text = f"{lost} {blocked}"
    await engine.start(asked(text), "cat", delivery="direct")
    claim = (await engine.store.read("cat")).receipt.attempt.claim
    await engine.start(asked(text), "cat", delivery="direct", on_unknown="resubmit")
    with pytest.raises(VideoModerated):
        await engine.wait("cat", timeout=20)
    place = f"{engine.store.bucket.bucket_folder}/{delivery_name('cat', claim)}"
    engine.store.bucket.credentials.get_s3_client().put_object(Bucket="videos", Key=place, Body=mp4(b"late"))
    assert (await engine.start(asked(text), "cat", regenerate=True)).state == "done"
    assert submissions() == 2


async def test_a_late_delivery_does_not_change_the_stored_video(engine, bucket, aws):
    text = "A cat that is sent twice [fault:start-cut]"
    await engine.start(asked(text), "cat", delivery="direct")
    first = (await engine.store.read("cat")).receipt.attempt.claim
    video = await make(engine, "cat", text, on_unknown="resubmit")
    late = f"{bucket.bucket_folder}/{delivery_name('cat', first)}"
    aws.get_s3_client().put_object(Bucket="videos", Key=late, Body=mp4(b"late"))
    assert await engine.save("cat") == video


async def test_a_foreign_object_is_not_overwritten_by_a_delivery(engine, bucket, aws, submissions):
    await engine.start(asked("A cat and a film of mine"), "cat", delivery="direct")
    mine = {"Bucket": "videos", "Key": f"{bucket.bucket_folder}/cat.mp4"}
    aws.get_s3_client().put_object(**mine, Body=b"a film of mine")
    await engine.wait("cat", timeout=20)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"cat\.mp4 already.*not overwritten"):
            await engine.save("cat")
    assert aws.get_s3_client().get_object(**mine)["Body"].read() == b"a film of mine"
    aws.get_s3_client().delete_object(**mine)
    video = await engine.save("cat")
    assert await engine.store.holds_video("cat", (await engine.store.read("cat")).receipt.file)
    assert aws.get_s3_client().get_object(**mine)["ContentLength"] == video.size
    assert submissions() == 1


async def test_two_concurrent_saves_store_one_video(engine, objects):
    await engine.start(asked("A shared cat"), "cat", delivery="direct")
    await engine.wait("cat", timeout=20)
    one, other = await asyncio.gather(engine.save("cat"), engine.save("cat"))
    assert one == other
    assert objects() == ["cat.json", "cat.mp4"]


async def test_a_directory_refuses_direct_delivery_before_anything_is_written(engine, tmp_path, submissions):
    mine = Generation(engine.client, LocalStore(tmp_path / "store"), SCHEDULE)
    with pytest.raises(InvalidRequest, match=r"delivery: 'direct' with a directory is not allowed"):
        await mine.start(asked("A cat"), "cat", delivery="direct")
    assert not (tmp_path / "store").exists()
    assert submissions() == 0


async def test_a_bucket_that_xai_can_not_reach_is_refused_before_anything_is_written(engine, submissions):
    credentials = AwsCredentials(
        aws_access_key_id="access",
        aws_secret_access_key="secret",
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url="http://minio.internal:9000"),
    )
    mine = Generation(engine.client, S3Store(S3Bucket(bucket_name="videos", credentials=credentials)), SCHEDULE)
    with pytest.raises(InvalidRequest, match="https") as caught:
        await mine.start(asked("A cat"), "cat", delivery="direct")
    assert "X-Amz" not in str(caught.value)
    assert submissions() == 0


async def test_the_same_request_with_another_delivery_is_the_same_video(engine, submissions):
    video = await make(engine, "cat", "A cat either way")
    await engine.start(asked("A cat either way"), "cat")
    assert await engine.save("cat") == video
    assert submissions() == 1


async def test_no_signature_reaches_a_log(engine, caplog):
    with caplog.at_level(logging.DEBUG):
        await make(engine, "cat", "A quiet cat [fault:start-accepted-cut]")
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("boto")]
    assert "X-Amz-Signature" not in "\n".join(ours)
