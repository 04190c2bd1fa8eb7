"""The finished video."""

from decimal import Decimal

from prefect_xai_video.engine.attempts import Frozen
from prefect_xai_video.engine.video_html import video_html
from prefect_xai_video.money import dollars


class Video(Frozen):
    """A finished, stored video. It serialises to JSON and contains no secret.

    A notebook shows it with a player, if its file is on the same machine and not larger than 8 MiB.

    Attributes:
        key: Its name in the store, without extension.
        uri: `file://` or `s3://` URI of the video.
        receipt_uri: URI of its receipt.
        request_id: xAI's request id; None if the response was lost and the video was found all the same.
        model: Model that rendered it; None if unknown.
        duration: Duration in seconds; None if xAI did not report it and the index of the video could not be read.
        cost_usd: Billed cost in USD; None if xAI did not report it.
        estimated_cost_usd: Estimated cost from the price table in USD, in case xAI did not report the billed one.
        size: Size in bytes.
        sha256: SHA-256 as a hexadecimal string.
        content_type: Content type, for example `video/mp4`.
        file_id: Id of the video in xAI's Files API, if it is kept there (`keep_at_xai`). As an input, it is written
            `xai-file:` and the id.
        public_url: Its URL there that needs no API key, if one was requested.
        width: Width in pixels; None if the index of the video could not be read, as for the next three.
        height: Height in pixels.
        frame_rate: Frames a second on average.
        has_sound: Whether it has sound.
        poster: URI of its first frame, if stills were asked for.
        last_frame: URI of its last frame in full resolution, if stills were asked for. It may be the `image_url` of
            the next video.
    """

    key: str
    uri: str
    receipt_uri: str
    request_id: str | None
    model: str | None
    duration: int | None
    cost_usd: Decimal | None
    estimated_cost_usd: Decimal | None = None
    size: int
    sha256: str
    content_type: str
    file_id: str | None = None
    public_url: str | None = None
    width: int | None = None
    height: int | None = None
    frame_rate: float | None = None
    has_sound: bool | None = None
    poster: str | None = None
    last_frame: str | None = None

    @property
    def price(self) -> str | None:
        """The billed cost as text, or an estimate that says so; None if neither is known."""
        if self.cost_usd is not None:
            return dollars(self.cost_usd)
        return None if self.estimated_cost_usd is None else f"about {dollars(self.estimated_cost_usd)} (an estimate)"

    @property
    def picture(self) -> str | None:
        """Size, frame rate and sound in words, such as `848x480, 24 fps, with sound`; None if they are unknown."""
        if self.width is None or self.height is None:
            return None
        rate = None if self.frame_rate is None else f"{self.frame_rate:g} fps"
        sound = None if self.has_sound is None else "with sound" if self.has_sound else "without sound"
        return ", ".join(filter(None, (f"{self.width}x{self.height}", rate, sound)))

    def _repr_html_(self) -> str:
        return video_html(self)


class LongVideo(Video):
    """A finished, stored video of several segments. Its `receipt_uri` is that of its record; it has no request id.

    Attributes:
        segments: The videos of its segments, each with a receipt and a cost of its own.
    """

    segments: tuple[Video, ...]
