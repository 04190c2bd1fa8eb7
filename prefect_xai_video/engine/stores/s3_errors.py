"""Errors of S3: their classification, and their text without secrets."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError
from pydantic import SecretStr

from prefect_xai_video.api.redaction import MAX_TEXT, Redaction

if TYPE_CHECKING:
    from prefect_aws import AwsCredentials, MinIOCredentials

CONDITION_FAILED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
"""Error codes of a conditional write whose condition does not hold."""


def code_of(error: ClientError | BotoCoreError) -> str:
    """Return S3's error code; empty if S3 did not respond."""
    return str(error.response["Error"].get("Code", "")) if isinstance(error, ClientError) else ""


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later, as after a server error or a broken connection."""
    if isinstance(error, ClientError):
        return error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
    return isinstance(error, HTTPClientError | BotoConnectionError)


def text_of(error: Exception, credentials: "AwsCredentials | MinIOCredentials", max_length: int = MAX_TEXT) -> str:
    """Return the text of an error without secrets: it may quote a response, which may echo the credentials."""
    text = str(error).rstrip(".")
    for secret in _secrets(credentials):
        text = Redaction(secret)(text)
    return Redaction()(text, max_length)


def _secrets(credentials: "AwsCredentials | MinIOCredentials") -> Iterator[str]:
    for name, value in credentials:
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        elif name == "aws_session_token" and value:
            yield str(value)
    # If the block has no credentials, boto3 uses those of the environment.
    for variable in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        yield os.environ.get(variable, "")
