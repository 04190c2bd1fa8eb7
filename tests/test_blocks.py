"""Blocks among a run's parameters, as forms, deployments and calls name them."""

import subprocess
import sys

import pytest
from prefect.blocks.system import Secret
from prefect.filesystems import LocalFileSystem
from prefect_aws import AwsCredentials, S3Bucket

from prefect_xai_video import XaiCredentials, agenerate_video
from prefect_xai_video.blocks import load_credentials, load_storage
from prefect_xai_video.errors import InvalidRequest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

BUCKET = S3Bucket(bucket_name="videos", bucket_folder="cats", credentials=AwsCredentials(region_name="eu-west-1"))


@pytest.fixture(params=["id", "slug", "bare id"])
def reference(request):
    """Saves a block, and names it in each of the ways that Prefect knows."""

    async def refer(block):
        slug = f"{block.get_block_type_slug()}/parameter"
        block_id = str(await block.save("parameter", overwrite=True))
        names = {"id": {"block_document_id": block_id}, "slug": {"block_document_slug": slug}, "bare id": block_id}
        return {"$ref": names[request.param]}

    return refer


async def test_credentials_are_loaded_by_reference(reference):
    assert (
        await load_credentials(await reference(XaiCredentials(api_key="a-key")))
    ).api_key.get_secret_value() == "a-key"


@pytest.mark.parametrize(
    "block", [LocalFileSystem(basepath="/videos"), BUCKET], ids=lambda block: type(block).__name__
)
async def test_a_storage_is_loaded_by_reference(reference, block):
    loaded = await load_storage(await reference(block))
    assert type(loaded) is type(block)
    assert loaded.model_dump() == block.model_dump()


async def test_a_block_of_another_type_is_refused(reference, directory):
    secret = await reference(Secret(value="a-secret"))
    with pytest.raises(InvalidRequest, match=r"^credentials: the block .* is not allowed") as caught:
        await agenerate_video("A cat", credentials=secret)
    assert "a-secret" not in str(caught.value)
    with pytest.raises(Exception, match="storage: Secret is not allowed; allowed: S3Bucket or LocalFileSystem"):
        await agenerate_video("A cat", credentials=XaiCredentials(api_key="any"), storage=secret)


@pytest.mark.parametrize(
    "reference",
    [
        {"block_document_id": "1a621bcb-55fa-431f-9f61-a0ef12f8cd7a"},
        {"block_document_slug": "xai-credentials/nobodys"},
        {"block_document_id": "nothing"},
        {},
    ],
)
@pytest.mark.parametrize(("load", "field"), [(load_credentials, "credentials"), (load_storage, "storage")])
async def test_a_block_that_is_not_there_is_named(reference, load, field):
    with pytest.raises(InvalidRequest, match=f"^{field}: the block .* is not allowed"):
        await load({"$ref": reference})


@pytest.mark.parametrize("fields", [{"basepath": "/videos"}, {"bucket_name": "videos", "bucket_folder": "cats"}])
async def test_a_storage_may_be_given_as_its_fields(fields):
    loaded = await load_storage(fields)
    assert {name: getattr(loaded, name) for name in fields} == fields


@pytest.mark.parametrize(
    "fields",
    [
        {"basepath": 5, "token": "a-secret"},
        {"basepath": "/videos", "token": "a-secret"},
        {"basepath": 5},
        {"bucket": "a-secret"},
        {"bucket_name": "videos", "folder": "a-secret"},
        {"bucket_name": "videos", "credentials": "a-secret"},
    ],
    ids=" ".join,
)
async def test_fields_that_are_no_storage_are_refused_and_only_named(fields):
    with pytest.raises(InvalidRequest, match=f"storage: the fields {', '.join(fields)} are not allowed") as caught:
        await load_storage(fields)
    assert "a-secret" not in str(caught.value)


@pytest.mark.parametrize("given", [{"api_key": "a-secret"}, "a-secret", "", 5, 0])
async def test_credentials_are_no_fields_and_no_text(given):
    with pytest.raises(InvalidRequest, match=r"^credentials: .* allowed: a saved XaiCredentials block") as caught:
        await agenerate_video("A cat", credentials=given)
    assert "a-secret" not in str(caught.value)


@pytest.mark.parametrize("nothing", [None, {}])
async def test_what_was_not_chosen_is_the_default(nothing, monkeypatch):
    monkeypatch.setenv("XAI_API_KEY", "from-the-environment")
    assert (await load_credentials(nothing)).api_key.get_secret_value() == "from-the-environment"
    assert await load_storage(nothing) is None


def test_a_run_without_a_bucket_imports_no_boto3():
    code = "import sys, prefect_xai_video.flows; print([m for m in sys.modules if m in {'boto3', 'prefect_aws'}])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
