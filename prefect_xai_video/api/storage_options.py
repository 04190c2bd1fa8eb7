"""How xAI's Files API stores a video: the field `storage_options` of a request."""

import re
from dataclasses import dataclass
from typing import Any

_PREFIX = "prefect-xai-video-"
_VIDEO = re.compile(rf"{_PREFIX}([0-9a-f]{{32}})\.mp4")
_INPUT = re.compile(rf"{_PREFIX}input-([0-9a-f]{{64}})\.[a-z0-9]{{3,5}}")


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """The field `storage_options` of a request.

    Attributes:
        filename: Name of the file, which need not be unique for xAI.
        expires_after: Lifetime of the file in seconds; None for no end.
        public_url: Whether the file gets a URL that needs no API key, at most as long as it lives.
    """

    filename: str
    expires_after: int | None = None
    public_url: bool = False

    def body(self) -> dict[str, Any]:
        """Build the JSON as xAI expects it."""
        body: dict[str, Any] = {"filename": self.filename}
        if self.expires_after is not None:
            body["expires_after"] = self.expires_after
        if self.public_url:
            body["public_url"] = True
        return body


def file_name(claim: str) -> str:
    """Return the name of the file of a claim; no other submission has it."""
    return f"{_PREFIX}{claim}.mp4"


def input_name(digest: str, extension: str) -> str:
    """Return the name of an uploaded input; equal contents have the same name."""
    return f"{_PREFIX}input-{digest}.{extension}"


def claim_of(name: str) -> str | None:
    """Return the claim whose video a file is, by its name; None for any other file."""
    match = _VIDEO.fullmatch(name)
    return match[1] if match else None


def digest_of(name: str) -> str | None:
    """Return the digest of the uploaded input that a file is, by its name; None for any other file."""
    match = _INPUT.fullmatch(name)
    return match[1] if match else None


def is_own_name(name: str) -> bool:
    """Whether a file has a name that this package gives to videos and inputs."""
    return claim_of(name) is not None or digest_of(name) is not None
