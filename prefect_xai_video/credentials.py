"""The block `XaiCredentials`: the API key and where the API is."""

import os
from collections.abc import Mapping
from typing import Any, Self

from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator

from prefect_xai_video.client import DEFAULT_BASE_URL, XaiVideoClient, check_api_key, check_base_url
from prefect_xai_video.errors import MissingCredentials, XaiVideoError
from prefect_xai_video.settings import XaiVideoSettings
from prefect_xai_video.synchronous import synchronous

KEY_VARIABLE = "XAI_API_KEY"
BASE_URL_VARIABLE = "XAI_BASE_URL"


class XaiCredentials(CredentialsBlock):
    """Block that holds an xAI API key.

    Attributes:
        api_key: API key from the xAI console.
        base_url: Base URL of the API, with its version. A regional one looks like
            `https://eu-west-1.api.x.ai/v1`.

    Example:
        Make a video with stored credentials:
        ```python
        from prefect_xai_video import XaiCredentials, generate_video

        credentials = XaiCredentials.load("BLOCK_NAME")
        video = generate_video("A cat playing with a ball", credentials=credentials)
        ```
    """

    # What is no key may be one with a typo: errors do not repeat it.
    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "xAI Credentials"
    _block_type_slug = "xai-credentials"
    _description = "Holds an xAI API key, with which videos are made and paid for."
    _logo_url = HttpUrl("https://x.ai/favicon.ico")
    _documentation_url = HttpUrl("https://docs.x.ai/docs/guides/video-generations")

    api_key: SecretStr = Field(
        default=...,
        title="API key",
        description="From the xAI console. Prefect stores it encrypted.",
    )
    base_url: str = Field(
        default=DEFAULT_BASE_URL,
        title="Base URL",
        description="Change it for a regional endpoint, such as https://eu-west-1.api.x.ai/v1, or an emulator.",
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
        """Take the key from `XAI_API_KEY` and the base URL, if set, from `XAI_BASE_URL`.

        Raises:
            MissingCredentials: If there is no key, or what is there can't be one.
            InvalidRequest: If the key may not be sent to that base URL.
        """
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key:
            raise MissingCredentials(
                f"There is no xAI API key: set {KEY_VARIABLE}, or pass credentials=XaiCredentials.load(...)."
            )
        base_url = os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL
        try:
            return cls(api_key=SecretStr(check_api_key(key)), base_url=check_base_url(base_url))
        except XaiVideoError as error:
            variable = KEY_VARIABLE if isinstance(error, MissingCredentials) else BASE_URL_VARIABLE
            raise type(error)(f"{variable}: {error.message}") from None

    def get_client(self) -> XaiVideoClient:
        """Make a client with this key: `async with credentials.get_client() as client: ...`."""
        max_bytes = XaiVideoSettings.current().max_download_bytes
        return XaiVideoClient(self.api_key, self.base_url, max_download_bytes=max_bytes)

    async def acheck_key(self) -> Mapping[str, Any]:
        """Ask xAI what this key is and may do. It costs nothing.

        Returns:
            xAI's answer, among others `name` and `acls`.

        Raises:
            AuthenticationFailed: If the key is wrong, blocked or disabled.
            ApiError: If xAI can't be asked.
        """
        async with self.get_client() as client:
            return await client.check_key()

    def check_key(self) -> Mapping[str, Any]:
        """Ask xAI what this key is and may do, like `acheck_key`, in synchronous code."""
        return synchronous(self.acheck_key)()
