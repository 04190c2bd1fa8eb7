"""Checks of an API key and the base URL it may be sent to."""

import httpx

from prefect_xai_video.api.urls import wire_url
from prefect_xai_video.errors import (
    InvalidRequest,
    MissingCredentials,
    not_allowed,
)

DEFAULT_BASE_URL = "https://api.x.ai/v1"


def check_api_key(api_key: str) -> str:
    """Check that a text can be an API key, and strip surrounding white space.

    Raises:
        MissingCredentials: If it is empty or not a valid key. A rejected value may be a mistyped key, so the error
            never echoes it.
    """
    key = api_key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise MissingCredentials(
            "The API key is missing or not valid; allowed: printable ASCII characters without spaces."
        )
    return key


def check_base_url(base_url: str) -> str:
    """Check that the API key may be sent to a base URL: https, or a loopback host for the emulator.

    Raises:
        InvalidRequest: If it is not such a URL.
    """
    if base_url.lower().startswith("data:"):
        raise not_allowed("base_url", "a data: URL", "an https:// URL")
    if any(mark in base_url for mark in "@?#"):
        raise not_allowed("base_url", "a user, a query or a fragment", "an https:// URL with host and path")
    try:
        httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise InvalidRequest(f"base_url: {error}; allowed: an https:// URL.") from None
    return wire_url(base_url, "base_url").rstrip("/")
