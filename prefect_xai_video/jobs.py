"""The block `XaiVideoGenerator` and its runs: Prefect's job interface, with saved defaults.

A thin layer above the tasks: runs go through `start_video`, `wait_for_video` and `save_video`, and so have their
receipts, keys, retries and logs. A result is always read from the receipt.
"""

from dataclasses import dataclass, field
from typing import Annotated, NoReturn, Self, cast

from prefect.blocks.abstract import JobBlock, JobRun
from prefect.filesystems import LocalFileSystem
from prefect_aws import S3Bucket
from pydantic import ConfigDict, Field, StrictBool, StrictInt, field_validator, model_validator
from typing_extensions import Unpack, override

from prefect_xai_video.api.capabilities import DEFAULT_MODEL
from prefect_xai_video.api.options import VideoOptions, build_request, check_options, defaults_that_apply
from prefect_xai_video.api.requests import ClipOptions, Unset
from prefect_xai_video.api.validation import check_limits
from prefect_xai_video.credentials import DOCUMENTATION_URL, LOGO_URL, XaiCredentials
from prefect_xai_video.engine.attempts import ENDED_BADLY
from prefect_xai_video.engine.handover import Handover
from prefect_xai_video.engine.journal import Journal, with_key, with_request_id
from prefect_xai_video.engine.options import Delivery, DeliveryOptions, Recovery, TriggerOptions
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stills import check_stills
from prefect_xai_video.engine.stores import VideoStore, missing_video_error
from prefect_xai_video.engine.videos import Video
from prefect_xai_video.errors import StorageError, no_such, not_allowed
from prefect_xai_video.orchestration.storage import open_store
from prefect_xai_video.settings import XaiVideoSettings, check_timeout
from prefect_xai_video.synchronous import synchronous
from prefect_xai_video.tasks import (
    StartOptions,
    aadopt_video,
    asave_video,
    astart_video,
    await_for_video,
)

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class XaiVideoGenerator(ClipOptions, JobBlock[Video]):
    """Block that generates videos with saved defaults.

    Attributes:
        model: xAI model id.
        duration: Seconds. xAI's default is 8.
        aspect_ratio: Shape of the picture. xAI's default is 16:9.
        resolution: Resolution. xAI's default is 480p.
        generate_audio: Whether the clip has sound. xAI's default is True.
        credentials: The xAI API key. Default: `XAI_API_KEY` and `XAI_BASE_URL` of the environment.
        storage: Storage for videos and their receipts. Default: the directory of the setting `HOME`.
        delivery: `direct` lets xAI upload the video to the bucket itself.
        recovery: `files` lets xAI keep the video in its Files API until it is stored, to find it after a lost reply.
        keep_at_xai: Keeps the video there: True for no end, or for so many seconds.
        public_url: Whether that file gets a URL that needs no API key.
        stills: Whether to store the first and last frame of each video beside it; needs PyAV.
        timeout_seconds: Longest time to wait for a video, in seconds. Default: the setting `TIMEOUT_SECONDS`.

    Example:
        Make a video with saved defaults:
        ```python
        from prefect import flow
        from prefect_xai_video import XaiVideoGenerator


        @flow
        def publish(prompt: str):
            generator = XaiVideoGenerator.load("BLOCK_NAME")
            run = generator.trigger(prompt)
            run.wait_for_completion()
            return run.fetch_result()
        ```
    """

    # When Prefect loads a block, it validates the API key in clear text, so errors never echo the input.
    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "xAI Video Generator"
    _block_type_slug = "xai-video-generator"
    _description = "Generates videos with xAI and stores them, with saved defaults: one key, one video, one payment."
    _logo_url = LOGO_URL
    _documentation_url = DOCUMENTATION_URL

    model: str = Field(default=DEFAULT_MODEL, title="Model", description="xAI model id.")
    credentials: XaiCredentials | Unset = Field(
        default=None,
        title="Credentials",
        description="Block with the xAI API key. Default: XAI_API_KEY of the environment.",
    )
    storage: S3Bucket | LocalFileSystem | Unset = Field(
        default=None,
        title="Storage",
        description="Bucket or directory for videos and their receipts. Default: the directory xai-video in "
        "Prefect's home, on the machine where the flow runs.",
    )
    delivery: Delivery = Field(
        default="download",
        title="Delivery",
        description="download: the worker downloads the video and stores it. direct: xAI uploads it to the bucket.",
    )
    recovery: Recovery = Field(
        default="none",
        title="Recovery",
        description="files: xAI keeps the video in its Files API until it is stored, so that it is found if xAI's "
        "reply to the submission is lost. Not with direct delivery.",
    )
    keep_at_xai: StrictBool | StrictInt = Field(
        default=False,
        title="Keep at xAI",
        description="Keep the video as a file in xAI's Files API, for ever or for so many seconds. Not with direct "
        "delivery.",
    )
    public_url: StrictBool = Field(
        default=False,
        title="Public URL",
        description="Give that file a URL that needs no API key: everyone who has it can see the video.",
    )
    stills: bool = Field(
        default=False,
        title="Stills",
        description="Store the first and the last frame beside each video. Needs PyAV where the block is used.",
    )
    timeout_seconds: Seconds | Unset = Field(
        default=None,
        title="Timeout in seconds",
        description="Longest time to wait; a later run with the same key continues waiting. Default: 1200 unless "
        "configured otherwise.",
    )

    @field_validator("credentials", "storage", mode="before")
    @classmethod
    def _none_if_not_chosen(cls, block: object) -> object:
        """Treat an empty block as None; the classic UI sends one if none was chosen, and it would fit any type."""
        return None if block == {} else block

    @model_validator(mode="after")
    def _has_valid_defaults(self) -> Self:
        """Reject an invalid default when the block is created or loaded, not with the first video.

        Prefect's blocks accept fields of any name, so a misspelled default would lead to a wrong video that is paid.
        """
        for name in self.model_extra or {}:
            if name != "block_type_slug" and not name.startswith("_"):
                raise no_such("field", name, type(self).model_fields)
        Handover(**self._delivery)
        request = build_request("any", **self._defaults())
        check_limits(request, XaiVideoSettings.current().validation)
        return self

    def _defaults(self) -> VideoOptions:
        """Return the saved defaults."""
        saved = {
            name: getattr(self, name) for name in VideoOptions.__annotations__ if name in type(self).model_fields
        }
        return cast("VideoOptions", saved)

    @property
    def _delivery(self) -> DeliveryOptions:
        return cast("DeliveryOptions", {name: getattr(self, name) for name in DeliveryOptions.__annotations__})

    @property
    def _store(self) -> VideoStore:
        return open_store(self.storage, XaiVideoSettings.current().home)

    async def atrigger(self, prompt: str, **options: Unpack[TriggerOptions]) -> "XaiVideoRun":
        """Start a video and pay for it, unless its key was started before.

        Args:
            prompt: Description of the video, at most 4096 characters. May be empty with given frames.
            **options: See `VideoOptions` and `TriggerOptions`. They override the saved defaults. Edits and extensions
                ignore the saved duration, aspect ratio, resolution and sound. Without `key`, one is derived: in a
                flow run from the run, in a script from this call, so each makes a new video.

        Returns:
            The run, with its key.

        Raises:
            XaiVideoError: See `start_video`.
        """
        check_options(options, TriggerOptions)
        check_timeout(self.timeout_seconds)
        check_stills(self.stills)
        given = cast("TriggerOptions", {name: value for name, value in options.items() if value is not None})
        saved = defaults_that_apply(self._defaults(), given)
        own = {"storage": self.storage, "credentials": self.credentials, **self._delivery}
        receipt = await astart_video(prompt, **cast("StartOptions", {**saved, **given, **own}))
        return XaiVideoRun(self, receipt.key, receipt.request_id)

    async def arun_of(self, key: str | None = None, *, request_id: str | None = None) -> "XaiVideoRun":
        """Find a run again, wherever it was triggered. It costs nothing.

        Args:
            key: The video's name in the store.
            request_id: xAI's request id from a log, the xAI console or another tool. It is adopted into the key;
                without a key, the video is stored under its request id.

        Returns:
            The run.

        Raises:
            InvalidRequest: If neither is given.
            StorageError: If the key has no receipt, or the receipt can't be read.
            KeyConflict: If the key belongs to another request.
            ApiError: If xAI can't be reached, or does not know the request id.
        """
        if request_id is not None:
            receipt = await aadopt_video(
                request_id, request_id if key is None else key, storage=self.storage, credentials=self.credentials
            )
        elif key is not None:
            receipt = await _read(self._store, key)
        else:
            raise not_allowed("key", "None", "the key of a video, or a request_id")
        return XaiVideoRun(self, receipt.key, receipt.request_id)

    @override
    def trigger(self, prompt: str, **options: Unpack[TriggerOptions]) -> "XaiVideoRun":  # type: ignore[override]
        """Start a video and pay for it, unless its key was started before; `atrigger` in synchronous code."""
        return synchronous(self.atrigger)(prompt, **options)

    def run_of(self, key: str | None = None, *, request_id: str | None = None) -> "XaiVideoRun":
        """Find a run again, wherever it was triggered; `arun_of` in synchronous code."""
        return synchronous(self.arun_of)(key, request_id=request_id)


@dataclass(frozen=True)
class XaiVideoRun(JobRun[Video]):
    """Handle of one triggered video. It holds no state: `XaiVideoGenerator.run_of` recreates it from the key.

    Attributes:
        generator: The block that triggered it.
        key: The video's name in the store, without extension.
        request_id: xAI's request id. None if the submission has an unknown outcome.
    """

    generator: XaiVideoGenerator = field(repr=False)
    key: str
    request_id: str | None = None

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled, as happens to persisted results in Prefect, since the block holds secrets.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "An XaiVideoRun can't be stored or sent to another process, since its block holds the API key. Return "
            "its key instead, and recreate the run with XaiVideoGenerator.run_of(key)."
        )

    async def await_for_completion(self) -> None:
        """Wait until the video is done and store it, since xAI keeps it only for a short time.

        Cancelling only stops the waiting, since xAI has no cancel. The same key continues waiting later.

        Raises:
            VideoTimeout: If it was not done within the block's `timeout_seconds`.
            GenerationError: If there will be no video.
            XaiVideoError: See `wait_for_video` and `save_video`.
        """
        receipt = await await_for_video(
            self.key,
            timeout_seconds=self.generator.timeout_seconds,
            storage=self.generator.storage,
            credentials=self.generator.credentials,
        )
        await asave_video(
            receipt,
            stills=self.generator.stills,
            storage=self.generator.storage,
            credentials=self.generator.credentials,
        )

    async def afetch_result(self) -> Video:
        """Return the stored video, without waiting and without a call to xAI.

        Returns:
            The video.

        Raises:
            GenerationError: If there will be no video.
            StorageError: If it is not stored yet, or is missing from the place named in its receipt.
        """
        store = self.generator._store
        receipt = await _read(store, self.key)
        with with_key(self.key), with_request_id(receipt.request_id, receipt):
            if receipt.state in ENDED_BADLY:
                raise receipt.error()
            if receipt.state != "stored" or receipt.file is None:
                raise StorageError(
                    f"The video is {receipt.state} and not stored yet: wait_for_completion() waits and stores it.",
                    maybe_paid=receipt.maybe_paid,
                )
            if not await store.holds_video(self.key, receipt.file):
                raise missing_video_error(receipt.file)
            return receipt.video(store.receipt_uri(self.key))

    @override
    def wait_for_completion(self) -> None:  # type: ignore[override]
        """Wait until the video is done and store it; `await_for_completion` in synchronous code."""
        synchronous(self.await_for_completion)()

    @override
    def fetch_result(self) -> Video:  # type: ignore[override]
        """Return the stored video; `afetch_result` in synchronous code."""
        return synchronous(self.afetch_result)()


async def _read(store: VideoStore, key: str) -> Receipt:
    with with_key(key):
        return (await Journal(store).read(key)).receipt
