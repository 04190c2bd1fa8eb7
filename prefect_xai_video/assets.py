"""Prefect assets: the stored video as what a run has made, and its inputs as what it was made of.

Prefect makes a context for each task run, hands what one task has used on to those that get its result, and emits the
events when a task run ends. What a video is called is only known while its tasks run, so it is added there.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from prefect.assets import Asset
from prefect.context import AssetContext

from prefect_xai_video.receipts import Video

logger = logging.getLogger(__name__)


def uses(url: str | None) -> None:
    """Note an input of the current task run as an asset, unless it is inline or a local file."""
    context = AssetContext.get()
    if context is not None and url is not None and url.startswith(("s3://", "https://")):
        parts = urlsplit(url)
        # Before the host and after the path there may be secrets.
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        with _never_failing():
            context.direct_asset_dependencies.add(Asset(key=place))
            context.update_tracked_assets()


def makes(video: Video) -> None:
    """Note the video as an asset that the current task run has made."""
    context = AssetContext.get()
    if context is not None:
        with _never_failing():
            context.downstream_assets.add(Asset(key=video.uri))
            context.add_asset_metadata(video.uri, video.model_dump(mode="json", exclude={"uri", "receipt_uri"}))
            context.update_tracked_assets()


@contextmanager
def _never_failing() -> Iterator[None]:
    """Leave out what Prefect can't take, such as some URIs: a run that has paid does not fail for that."""
    try:
        yield
    except Exception:
        logger.debug("An asset could not be noted.", exc_info=True)
