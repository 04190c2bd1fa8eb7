"""`xai-video setup` where something is there already, or goes wrong."""

import os
import subprocess

import pytest
from prefect import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.filesystems import LocalFileSystem
from prefect_aws import AwsCredentials, S3Bucket

from prefect_xai_video import XaiCredentials

from ..support.api_key import API_KEY
from ..support.ports import free_port
from ..support.server import WITHOUT_EVENTS, running_server, server_environment, used_by_this_process

pytestmark = pytest.mark.slow
GENERATE, COLLECT = "generate-video/make-a-video", "collect-video/collect-a-video"


@pytest.fixture(scope="module")
def run(forking):
    """Runs the command; gives the lines that it prints, what it complains of, and its exit code."""

    def run(*options: str, env: dict[str, str]) -> tuple[list[str], str, int]:
        command = [*forking.command("prefect_xai_video"), "setup", *options]
        result = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, check=False)
        return result.stdout.splitlines(), result.stderr, result.returncode

    return run


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "PREFECT_API_URL is not set; set it, for instance to http://127.0.0.1:4200/api.\n"),
        (f"http://127.0.0.1:{free_port()}/api", "The Prefect server at http://127.0.0.1:"),
    ],
    ids=["unset", "down"],
)
def test_without_a_server_it_ends_with_one_sentence(run, url, sentence):
    said, complaint, code = run(env=os.environ | {"PREFECT_API_URL": url, "XAI_API_KEY": API_KEY})
    assert (said, complaint.count("\n"), code) == ([], 1, 1)
    assert complaint.startswith(sentence)


@pytest.fixture(scope="module")
def server(tmp_path_factory, database):
    """The home and the URL of a fresh server, to which this process speaks too."""
    home = tmp_path_factory.mktemp("setup")
    with running_server(home, database, **WITHOUT_EVENTS) as url, used_by_this_process(url):
        yield home, url


@pytest.fixture(scope="module")
def emulator(emulator_of_module):
    return emulator_of_module


@pytest.fixture(scope="module")
def set_up(run, server, emulator):
    """Runs the command on that server."""
    env = server_environment(*server) | emulator.environment()
    return lambda *options, **more: run(*options, env=env | more)


@pytest.fixture(scope="module")
def mistyped(server, set_up):
    """A key has been saved that xAI rejects."""
    XaiCredentials(api_key="xai-mistyped").save("xai")


@pytest.fixture(scope="module")
def first(mistyped, set_up):
    """What a set-up without a bucket says."""
    said, complaint, code = set_up()
    assert code == 0, complaint
    return said


@pytest.fixture(scope="module")
def with_bucket(first, set_up):
    """What a later one with a bucket says, after somebody has chosen a storage for one deployment."""
    chosen = LocalFileSystem(basepath="/data/videos").save("chosen", overwrite=True)
    with get_client(sync_client=True) as prefect:
        generate = prefect.read_deployment_by_name(GENERATE)
        parameters = generate.parameters | {"storage": {"$ref": {"block_document_id": str(chosen)}}, "duration": 6}
        prefect.update_deployment(generate.id, DeploymentUpdate(parameters=parameters))
    said, complaint, code = set_up("--bucket", "ours")
    assert code == 0, complaint
    return said


def parameters_of(name: str) -> dict:
    with get_client(sync_client=True) as prefect:
        return prefect.read_deployment_by_name(name).parameters


def saved_key() -> str:
    return XaiCredentials.load("xai").api_key.get_secret_value()


def test_without_a_bucket_it_says_what_is_missed(first):
    assert (
        "videos: stored on the worker's disk, so the UI shows no link and no player; for S3, use --bucket NAME"
        in first
    )
    assert f"deployment {GENERATE}: created" in first


def test_a_bucket_that_comes_later_is_used_where_nobody_chose_a_storage(with_bucket):
    assert "block s3-bucket/xai-videos: created for the bucket ours" in with_bucket
    assert f"deployment {COLLECT}: stores its videos with s3-bucket/xai-videos from now on" in with_bucket
    assert not any("from now on" in line for line in with_bucket if GENERATE in line)
    with get_client(sync_client=True) as prefect:
        chosen = prefect.read_block_document_by_name("chosen", "local-file-system").id
        bucket = prefect.read_block_document_by_name("xai-videos", "s3-bucket").id
    assert parameters_of(COLLECT)["storage"] == {"$ref": {"block_document_id": str(bucket)}}
    assert parameters_of(GENERATE)["storage"] == {"$ref": {"block_document_id": str(chosen)}}
    assert parameters_of(GENERATE)["duration"] == 6


def test_another_bucket_than_that_of_the_saved_block_is_refused(with_bucket, set_up):
    _, complaint, code = set_up("--bucket", "theirs")
    assert code == 2
    assert complaint.startswith("bucket: the block s3-bucket/xai-videos is for the bucket ours; edit it in the UI")


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        ("local-file-system/chosen", "storage_block: 'local-file-system/chosen' is not allowed; allowed: a block as"),
        ("s3-bucket/nobody", "storage_block: the block 's3-bucket/nobody' does not exist."),
    ],
)
def test_a_storage_block_must_be_a_bucket_that_was_saved(with_bucket, set_up, block, sentence):
    _, complaint, code = set_up("--storage-block", block)
    assert code == 2
    assert complaint.startswith(sentence)


def test_a_saved_key_is_replaced_only_if_asked_and_only_by_one_that_xai_accepts(first, set_up, emulator):
    [line] = [line for line in first if line.startswith("block xai-credentials/xai")]
    assert line.endswith("exists, but differs from XAI_API_KEY or XAI_BASE_URL; --replace-key replaces it")
    said, complaint, code = set_up("--replace-key", XAI_API_KEY="xai-wrong")
    assert (complaint.count("\n"), code) == (1, 1)
    assert saved_key() == "xai-mistyped"
    said, complaint, code = set_up("--replace-key")
    assert code == 0, complaint
    assert f"block xai-credentials/xai: replaced by XAI_API_KEY, for {emulator.base_url}" in said
    assert saved_key() == API_KEY
    assert API_KEY not in "\n".join([*said, *first])


def test_a_pool_of_containers_uses_the_named_image_and_bucket(first, set_up):
    S3Bucket(bucket_name="team", credentials=AwsCredentials()).save("team")
    image = "registry.example/videos:1"
    said, complaint, code = set_up("--pool", "docker", "--storage-block", "s3-bucket/team", "--image", image)
    assert code == 0, complaint
    with get_client(sync_client=True) as prefect:
        made = prefect.read_deployment_by_name(f"{GENERATE}-docker")
        team = prefect.read_block_document_by_name("team", "s3-bucket").id
    assert made.job_variables["image"] == image
    assert made.parameters["storage"] == {"$ref": {"block_document_id": str(team)}}
    assert f"deployment {GENERATE}-docker: created" in said
