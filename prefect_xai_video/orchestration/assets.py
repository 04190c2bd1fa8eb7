"""Prefect assets: the stored video as the output of a run, and its inputs as dependencies.

Prefect creates an asset context for each task run, passes dependencies on to the tasks that receive its result, and
emits the asset events when the task run ends. The URI of a video is known only while its tasks run, so they add it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from prefect.assets import Asset
from prefect.context import AssetContext

from prefect_xai_video.engine.videos import Video

logger = logging.getLogger(__name__)


def uses(url: str | None) -> None:
    """Register an input of the current task run as an asset, unless it is inline or a local file."""
    context = AssetContext.get()
    if context is not None and url is not None and url.startswith(("s3://", "https://")):
        with _best_effort():
            parts = urlsplit(url)
            # User info before the host and the query after the path may contain secrets.
            location = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            context.direct_asset_dependencies.add(Asset(key=location))
            context.update_tracked_assets()


def makes(video: Video) -> None:
    """Register the video as an asset that the current task run created."""
    context = AssetContext.get()
    if context is not None:
        with _best_effort():
            context.downstream_assets.add(Asset(key=video.uri))
            # Everybody who has the public URL can see the video, and an event may be sent on to anybody.
            # Segments are assets of their own.
            facts = video.model_dump(mode="json", exclude={"uri", "receipt_uri", "public_url", "segments"})
            context.add_asset_metadata(video.uri, facts)
            context.update_tracked_assets()


@contextmanager
def _best_effort() -> Iterator[None]:
    """Ignore failures, such as a URI that Prefect rejects: they must not fail a run that has paid."""
    try:
        yield
    except Exception:
        logger.debug("Could not register an asset.", exc_info=True)
