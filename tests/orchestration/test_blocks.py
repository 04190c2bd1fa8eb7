"""Blocks among a run's parameters, as forms, deployments and calls name them."""

import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentCreate
from prefect.deployments import arun_deployment
from prefect.filesystems import LocalFileSystem
from prefect_aws import AwsCredentials, S3Bucket
from pydantic import SecretStr

from prefect_xai_video import XaiCredentials, agenerate_video
from prefect_xai_video.errors import InvalidRequest
from prefect_xai_video.orchestration.blocks import load_credentials, load_storage

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
    fields = set(type(block).model_fields)
    assert loaded.model_dump(include=fields) == block.model_dump(include=fields)


@pytest.mark.parametrize("reference", ["slug"], indirect=True)
async def test_a_loaded_block_can_be_handed_to_a_deployment(reference):
    credentials = await load_credentials(await reference(XaiCredentials(api_key="a-key")))
    storage = await load_storage(await reference(BUCKET))
    given = {"credentials": credentials, "storage": storage}
    deployment = await (await agenerate_video.ato_deployment("by-hand", parameters=given)).aapply()
    run = await arun_deployment(deployment, parameters={"prompt": "A cat", **given}, timeout=0)
    assert "a-key" not in run.model_dump_json()
    async with get_client() as prefect:
        saved = (await prefect.read_deployment(deployment)).parameters
    for parameters in (run.parameters, saved):
        assert await load_credentials(parameters["credentials"]) == credentials
        assert await load_storage(parameters["storage"]) == storage


class OtherService(Block):
    """What could be taken for XaiCredentials, and for an S3Bucket."""

    api_key: SecretStr = SecretStr("a-secret")
    base_url: str = "http://127.0.0.1:9"
    bucket_name: str = "videos"


async def test_a_block_of_another_type_is_refused(reference, emulator, submissions):
    other = await reference(OtherService(base_url=emulator.base_url))
    with pytest.raises(InvalidRequest, match=r"^credentials: .*type otherservice is not allowed") as caught:
        await agenerate_video("A cat", credentials=other)
    assert "a-secret" not in str(caught.value)
    with pytest.raises(
        InvalidRequest, match=r"type otherservice .* allowed: a saved S3Bucket or LocalFileSystem block"
    ):
        await agenerate_video("A cat", credentials=XaiCredentials(api_key="any"), storage=other)
    assert submissions() == 0


LOADS = [(load_credentials, "credentials"), (load_storage, "storage")]


@pytest.mark.parametrize(
    "reference",
    [
        "1a621bcb-55fa-431f-9f61-a0ef12f8cd7a",
        {"block_document_id": "1a621bcb-55fa-431f-9f61-a0ef12f8cd7a"},
        {"block_document_slug": "xai-credentials/nobodys"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("load", "field"), LOADS)
async def test_a_block_that_is_not_there_is_named(reference, load, field):
    with pytest.raises(InvalidRequest, match=f"^{field}: the block '.*' does not exist"):
        await load({"$ref": reference})


@pytest.mark.parametrize(
    "reference",
    [
        {"block_document_id": "nothing"},
        {"block_document_id": 5},
        {"block_document_slug": "nobodys"},
        {"block_document_slug": {}},
        {"variable": "xai"},
        {},
        [],
        "nothing",
        5,
        None,
        True,
    ],
    ids=str,
)
@pytest.mark.parametrize(("load", "field"), LOADS)
async def test_what_is_no_reference_is_refused(reference, load, field):
    with pytest.raises(InvalidRequest, match=f"^{field}: the reference .* is not allowed; allowed: a saved "):
        await load({"$ref": reference})


async def test_a_block_with_a_wrong_key_says_what_is_wrong_with_it():
    async with get_client() as prefect:
        kind = await prefect.read_block_type_by_slug(XaiCredentials.get_block_type_slug())
        schema = await prefect.read_block_schema_by_checksum(XaiCredentials._calculate_schema_checksum())
        document = BlockDocumentCreate(
            name="wrong", block_type_id=kind.id, block_schema_id=schema.id, data={"api_key": "a secret"}
        )
        block_id = (await prefect.create_block_document(document)).id
    with pytest.raises(
        InvalidRequest, match=r"^credentials: the block 'wrong' .*api_key: .*without spaces"
    ) as caught:
        await load_credentials({"$ref": str(block_id)})
    assert "a secret" not in str(caught.value)


@pytest.mark.parametrize(("load", "field"), LOADS)
@pytest.mark.parametrize("fields", [{"api_key": "a-secret"}, {"basepath": "/videos"}, {"bucket_name": "a-secret"}])
async def test_fields_of_a_block_are_refused_and_only_named(fields, load, field):
    expected = f"^{field}: a block passed as its fields {', '.join(fields)} is not allowed; .* replace the secret"
    with pytest.raises(InvalidRequest, match=expected) as caught:
        await load(fields)
    assert "a-secret" not in str(caught.value)


@pytest.mark.parametrize("given", ["a-secret", "s3-bucket/videos", "", 5, 0, []])
async def test_a_parameter_is_no_text_and_no_number(given, directory):
    with pytest.raises(InvalidRequest, match=r"^credentials: \w+ is not allowed") as caught:
        await agenerate_video("A cat", credentials=given)
    assert "a-secret" not in str(caught.value)
    with pytest.raises(InvalidRequest, match=r"^storage: \w+ is not allowed"):
        await agenerate_video("A cat", credentials=XaiCredentials(api_key="any"), storage=given)


@pytest.mark.parametrize("nothing", [None, {}])
async def test_what_was_not_chosen_is_the_default(nothing, monkeypatch):
    monkeypatch.setenv("XAI_API_KEY", "from-the-environment")
    assert (await load_credentials(nothing)).api_key.get_secret_value() == "from-the-environment"
    assert await load_storage(nothing) is None
