"""Options for the payment and delivery of a video, besides those of the request."""

from typing import Literal

from typing_extensions import TypedDict

from prefect_xai_video.api.options import VideoOptions

OnUnknown = Literal["raise", "resubmit"]
Delivery = Literal["download", "direct"]
Recovery = Literal["none", "files"]


class KeyOptions(TypedDict, total=False):
    """The key of a video, and the conditions for paying again.

    Attributes:
        key: The video's name in the store, without extension. A key is paid for only once. Without a key, each run
            makes a new video.
        regenerate: Pay for a new attempt if the last one failed, was moderated or expired. Default False.
        on_unknown: `resubmit` submits again even if it is unknown whether xAI accepted the last submission, which may
            pay twice. Default `raise`.
    """

    key: str | None
    regenerate: bool
    on_unknown: OnUnknown


class DeliveryOptions(TypedDict, total=False):
    """How the video comes from xAI to the store.

    Attributes:
        delivery: `direct` lets xAI upload the video to the bucket itself; then a submission with an unknown outcome
            is recognised by its video. Default `download`.
        recovery: `files` lets xAI also store the video in its Files API, until it is in the store; then a submission
            with an unknown outcome is recognised by its file. Not with `direct`. Default `none`.
        keep_at_xai: Keep the video as a file in xAI's Files API: True for no end, or for so many seconds, 3600 to
            2592000. Includes the recovery. Not with `direct`. Default False.
        public_url: Give that file a URL that needs no API key. Only with `keep_at_xai`. Default False.
    """

    delivery: Delivery
    recovery: Recovery
    keep_at_xai: bool | int
    public_url: bool


class SavingOptions(DeliveryOptions, total=False):
    """How the video comes to the store (`DeliveryOptions`), and what is stored beside it.

    Attributes:
        stills: Store the first and the last frame beside the video, too; needs PyAV. Default False.
    """

    stills: bool


class TriggerOptions(VideoOptions, KeyOptions, total=False):
    """The options of a video (`VideoOptions`) and of its key (`KeyOptions`)."""
