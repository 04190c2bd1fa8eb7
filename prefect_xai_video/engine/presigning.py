"""Signed URLs of S3 objects. They are secrets: until one expires, anybody can use it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from botocore.config import Config

if TYPE_CHECKING:
    from prefect_aws import AwsCredentials, MinIOCredentials


def presigned_url(
    credentials: "AwsCredentials | MinIOCredentials",
    operation: Literal["get_object", "put_object"],
    parameters: Mapping[str, Any],
    seconds: int,
) -> str:
    """Create a signed URL for an object.

    Args:
        credentials: Credentials that sign. If they are temporary, the URL expires with them, which may be earlier.
        operation: The operation that the URL permits.
        parameters: Bucket and key; for a put also the content type, for a get also overrides of response headers.
        seconds: Lifetime in seconds.
    """
    client = credentials.get_s3_client()
    # By default boto3 may use an old signature version, which some regions and encrypted buckets reject.
    config = client.meta.config.merge(Config(signature_version="s3v4"))
    session = credentials.get_boto3_session()
    signing = session.client("s3", config=config, endpoint_url=client.meta.endpoint_url)
    url: str = signing.generate_presigned_url(operation, Params=dict(parameters), ExpiresIn=seconds)
    return url
