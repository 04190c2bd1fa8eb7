"""Signed URLs of S3 objects. Whoever has one may use it for a while, so they are secrets."""

from collections.abc import Mapping
from typing import Any, Literal

from botocore.config import Config
from prefect_aws import AwsCredentials, MinIOCredentials


def presigned_url(
    credentials: AwsCredentials | MinIOCredentials,
    operation: Literal["get_object", "put_object"],
    parameters: Mapping[str, Any],
    seconds: int,
) -> str:
    """Make a signed URL for an object.

    Args:
        credentials: Who signs. With the credentials of a role the URL ends when they do, which may be earlier.
        operation: What the URL is good for.
        parameters: Bucket, key and, for a put, the content type; for a get, what the answer is to say of it.
        seconds: How long it is good for.
    """
    client = credentials.get_s3_client()
    # Left to itself, boto3 signs in an old way that some regions and encrypted buckets refuse.
    config = client.meta.config.merge(Config(signature_version="s3v4"))
    session = credentials.get_boto3_session()
    signing = session.client("s3", config=config, endpoint_url=client.meta.endpoint_url)
    url: str = signing.generate_presigned_url(operation, Params=dict(parameters), ExpiresIn=seconds)
    return url
