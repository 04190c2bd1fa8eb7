"""Downloader of finished videos. The API key goes to the API host only, for contents of the Files API."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from prefect_xai_video.api.destinations import Destinations
from prefect_xai_video.api.download import Download, PartialDownload, open_durably
from prefect_xai_video.api.httpx_log import redacted_log
from prefect_xai_video.api.redaction import Redaction
from prefect_xai_video.api.retries import Retries, Timeouts
from prefect_xai_video.api.threads import run_in_thread
from prefect_xai_video.errors import DownloadError

MAX_REDIRECTS = 5

NOBODY: Mapping[str, str] = {}
"""The authorization of a download that needs none."""

_REDIRECTS = {301, 302, 303, 307, 308}


class Downloader:
    """Downloads videos to files, in bounded memory.

    Args:
        pool: Connection pool without an API key.
        destinations: Decides from which hosts a video may be downloaded.
        timeouts: Time-outs of a download.
        retries: Number of attempts, and the waits between them.
        max_bytes: Size of the largest video that is downloaded, in bytes.
        redact: Applied to all external text.
    """

    def __init__(
        self,
        pool: httpx.AsyncClient,
        destinations: Destinations,
        timeouts: Timeouts,
        retries: Retries,
        max_bytes: int,
        redact: Redaction,
    ) -> None:
        self._pool = pool
        self._destinations = destinations
        self._timeouts = timeouts
        self._retries = retries
        self._max_bytes = max_bytes
        self._redact = redact

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    async def fetch(self, url: str, target: Path, authorization: Mapping[str, str] = NOBODY) -> Download:
        """Download a video; as `XaiVideoClient.download`.

        Args:
            url: URL of the video.
            target: Destination file.
            authorization: Header with the API key, for a URL of the API itself. No redirect gets it.
        """
        with open_durably(target) as file, redacted_log(self._redact, hide_urls=True):
            fetched = PartialDownload(file, self._max_bytes, self._retries.is_too_long, self._redact)
            try:
                async with asyncio.timeout(self._timeouts.download_total) as deadline:
                    return await self._retries.call(lambda: self._fetch_whole(url, fetched, authorization))
            except TimeoutError:
                if not deadline.expired():
                    raise
                raise DownloadError(
                    f"The download took more than {self._timeouts.download_total:g} s; {fetched.size} bytes arrived."
                ) from None

    async def _fetch_whole(self, url: str, fetched: PartialDownload, authorization: Mapping[str, str]) -> Download:
        """Download the missing part of a video, and check that it is complete."""
        try:
            async with self._open(url, fetched.range_headers(), authorization) as response:
                fetched.begin(response)
                # Decode a content encoding, although none was requested: some servers use one all the same.
                chunks = response.aiter_bytes() if fetched.is_encoded else response.aiter_raw()
                async for chunk in chunks:
                    await run_in_thread(fetched.write, chunk)
        except httpx.RequestError as error:
            reason = self._redact(str(error)) or type(error).__name__
            raise DownloadError(f"The download broke off after {fetched.size} bytes: {reason}.") from None
        return await run_in_thread(fetched.end)

    @asynccontextmanager
    async def _open(
        self, url: str, headers: dict[str, str], authorization: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """Open the URL of a video, and follow its redirects if their targets are allowed."""
        target = self._destinations.check(url)
        for hop in range(MAX_REDIRECTS + 1):
            async with self._pool.stream(
                "GET",
                target,
                headers=headers if hop else {**headers, **authorization},
                timeout=self._timeouts.of(self._timeouts.download),
                extensions={"trace": self._destinations.watch(target)},
            ) as response:
                location = response.extensions.get("location")
                if location is None or response.status_code not in _REDIRECTS:
                    yield response
                    return
                target = self._destinations.check_redirect(target, location)
        raise DownloadError(f"The download was redirected more than {MAX_REDIRECTS} times.", transient=False)
