"""The block `XaiCredentials`: the API key and the base URL of the API."""

import os
from collections.abc import Mapping
from importlib.metadata import metadata
from typing import Any, Self

from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator

from prefect_xai_video.api.client import XaiVideoClient
from prefect_xai_video.api.endpoint import DEFAULT_BASE_URL, check_api_key, check_base_url
from prefect_xai_video.api.pace import Pace
from prefect_xai_video.errors import MissingCredentials, XaiVideoError
from prefect_xai_video.settings import XaiVideoSettings
from prefect_xai_video.synchronous import synchronous

KEY_VARIABLE = "XAI_API_KEY"
BASE_URL_VARIABLE = "XAI_BASE_URL"


def _address(page: str) -> HttpUrl | None:
    """Address of a page of this project, below the homepage of its metadata."""
    urls = dict(entry.split(", ", 1) for entry in metadata("prefect-xai-video").get_all("Project-URL", []))
    return HttpUrl(f"{urls['Homepage']}/{page}") if "Homepage" in urls else None


DOCUMENTATION_URL, LOGO_URL = _address(""), _address("images/logo.png")


class XaiCredentials(CredentialsBlock):
    """Block with an xAI API key.

    Attributes:
        api_key: API key from the xAI console.
        base_url: Base URL of the API, with its version. A regional one looks like
            `https://eu-west-1.api.x.ai/v1`.

    Example:
        Make a video with saved credentials:
        ```python
        from prefect_xai_video import XaiCredentials, generate_video

        credentials = XaiCredentials.load("BLOCK_NAME")
        video = generate_video("A cat playing with a ball", credentials=credentials)
        ```
    """

    # A rejected value may be a mistyped key, so errors never echo it.
    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "xAI Credentials"
    _block_type_slug = "xai-credentials"
    _description = "Holds the xAI API key that generates videos and is billed for them."
    _logo_url = LOGO_URL
    _documentation_url = DOCUMENTATION_URL

    api_key: SecretStr = Field(
        default=...,
        title="API key",
        description="From the xAI console. Prefect stores it encrypted.",
    )
    base_url: str = Field(
        default=DEFAULT_BASE_URL,
        title="Base URL",
        description="Change it only for a regional endpoint, such as https://eu-west-1.api.x.ai/v1, or an emulator.",
    )

    @field_validator("api_key")
    @classmethod
    def _usable_key(cls, api_key: SecretStr) -> SecretStr:
        try:
            return SecretStr(check_api_key(api_key.get_secret_value()))
        except MissingCredentials as error:
            raise ValueError(error.message) from None

    @field_validator("base_url")
    @classmethod
    def _safe_base_url(cls, base_url: str) -> str:
        return check_base_url(base_url)

    @classmethod
    def from_environment(cls) -> Self:
        """Read the API key from `XAI_API_KEY` and, if set, the base URL from `XAI_BASE_URL`.

        Raises:
            MissingCredentials: If the variable is not set, or its value can't be an API key.
            InvalidRequest: If the base URL is not safe for an API key.
        """
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key:
            raise MissingCredentials(f"No xAI API key: set {KEY_VARIABLE}, or choose an XaiCredentials block.")
        base_url = os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL
        try:
            return cls(api_key=SecretStr(check_api_key(key)), base_url=check_base_url(base_url))
        except XaiVideoError as error:
            variable = KEY_VARIABLE if isinstance(error, MissingCredentials) else BASE_URL_VARIABLE
            raise type(error)(f"{variable}: {error.message}") from None

    def get_client(self, pace: Pace | None = None) -> XaiVideoClient:
        """Create a client with this key: `async with credentials.get_client() as client: ...`.

        Args:
            pace: Hands out the turns of its requests, for many videos at a time. Default: none, so that none waits.
        """
        max_bytes = XaiVideoSettings.current().max_download_bytes
        return XaiVideoClient(self.api_key, self.base_url, max_download_bytes=max_bytes, pace=pace)

    async def acheck_key(self) -> Mapping[str, Any]:
        """Ask xAI for the name and the permissions of this key. It costs nothing.

        Returns:
            xAI's response, which contains among others `name` and `acls`.

        Raises:
            AuthenticationFailed: If the key is wrong, blocked or disabled.
            ApiError: If xAI rejects the call for another reason or can't be reached.
        """
        async with self.get_client() as client:
            return await client.check_key()

    def check_key(self) -> Mapping[str, Any]:
        """Ask xAI for the name and the permissions of this key; `acheck_key` in synchronous code."""
        return synchronous(self.acheck_key)()
