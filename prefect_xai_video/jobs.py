"""The block `XaiVideoGenerator` and its runs: Prefect's job interface, with saved defaults.

It is the tasks under other names: what is triggered and waited for goes through `start_video`, `wait_for_video` and
`save_video`, so it has their receipts, keys, retries and logs. A result is read from the receipt, and nowhere else.
"""

from dataclasses import dataclass, field
from typing import Annotated, Self

from prefect.blocks.abstract import JobBlock, JobRun
from prefect.filesystems import LocalFileSystem
from prefect_aws import S3Bucket
from pydantic import ConfigDict, Field, HttpUrl, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import override

from prefect_xai_video.capabilities import ASPECT_RATIOS, DEFAULT_MODEL, RESOLUTIONS
from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.errors import InvalidRequest, StorageError
from prefect_xai_video.journal import Journal, with_key, with_request_id
from prefect_xai_video.receipts import ENDED_BADLY, Receipt, Video
from prefect_xai_video.requests import build_request, check_limits
from prefect_xai_video.settings import XaiVideoSettings
from prefect_xai_video.stores import VideoStore, lost, open_store
from prefect_xai_video.submission import Delivery, OnUnknown
from prefect_xai_video.synchronous import synchronous
from prefect_xai_video.tasks import aadopt_video, asave_video, astart_video, await_for_video, check_timeout

# What the form of the block in the UI offers. An optional field is a pair of tabs there, unless its null is hidden.
Unset = SkipJsonSchema[None]
Duration = Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": 15})]
AspectRatio = Annotated[str, Field(json_schema_extra={"enum": list(ASPECT_RATIOS)})]
Resolution = Annotated[str, Field(json_schema_extra={"enum": list(RESOLUTIONS)})]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class XaiVideoGenerator(JobBlock[Video]):
    """Block that makes videos with saved defaults.

    Attributes:
        model: xAI model id.
        duration: Seconds. xAI's default is 8.
        aspect_ratio: Shape of the picture. xAI's default is 16:9.
        resolution: Resolution. xAI's default is 480p.
        credentials: The xAI API key. Default: `XAI_API_KEY` and `XAI_BASE_URL` of the environment.
        storage: Where videos and their receipts go. Default: the directory of the setting `HOME`.
        delivery: `direct` has xAI put the video into the bucket by itself.
        timeout_seconds: Seconds to wait for a video. Default: the setting `TIMEOUT_SECONDS`.

    Example:
        Make a video with stored defaults:
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

    # Prefect validates a loaded block with its API key in clear: errors do not repeat that.
    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "xAI Video Generator"
    _block_type_slug = "xai-video-generator"
    _description = "Generates videos with xAI and stores them, with saved defaults: one key, one video, one payment."
    _logo_url = HttpUrl("https://x.ai/favicon.ico")
    _documentation_url = HttpUrl("https://docs.x.ai/docs/guides/video-generations")

    model: str = Field(default=DEFAULT_MODEL, title="Model", description="xAI model id.")
    duration: Duration | Unset = Field(
        default=None, title="Duration", description="Seconds, 1-15. xAI's default is 8. Edits keep their clip's."
    )
    aspect_ratio: AspectRatio | Unset = Field(
        default=None,
        title="Aspect ratio",
        description="Shape of the picture. xAI's default is 16:9. Edits keep their clip's.",
    )
    resolution: Resolution | Unset = Field(
        default=None,
        title="Resolution",
        description="1080p needs a model that has it. xAI's default is 480p. Edits keep their clip's.",
    )
    credentials: XaiCredentials | Unset = Field(
        default=None, title="Credentials", description="The xAI API key. Default: XAI_API_KEY of the environment."
    )
    storage: S3Bucket | LocalFileSystem | Unset = Field(
        default=None,
        title="Storage",
        description="Where videos and their receipts go. Default: the directory of the setting HOME.",
    )
    delivery: Delivery = Field(
        default="download",
        title="Delivery",
        description="With direct, xAI puts the video into the bucket by itself.",
    )
    timeout_seconds: Seconds | Unset = Field(
        default=None,
        title="Timeout",
        description="Seconds to wait for a video; the same key goes on waiting later. Default: the setting "
        "TIMEOUT_SECONDS.",
    )

    @field_validator("credentials", "storage", mode="before")
    @classmethod
    def _nothing_chosen(cls, block: object) -> object:
        """Prefect's classic UI writes an empty block where none was chosen; as a directory it would be any."""
        return None if block == {} else block

    @model_validator(mode="after")
    def _can_be_asked_for(self) -> Self:
        """Tell a wrong default when the block is made or loaded, and not with the first video.

        Prefect's blocks take fields of any name, so a misspelled default would be a paid wrong video.
        """
        for name in self.model_extra or {}:
            if name != "block_type_slug" and not name.startswith("_"):
                raise InvalidRequest(
                    f"{name}: there is no such field; there are {', '.join(type(self).model_fields)}."
                )
        request = build_request(
            "any",
            model=self.model,
            duration=self.duration,
            aspect_ratio=self.aspect_ratio,
            resolution=self.resolution,
        )
        check_limits(request, XaiVideoSettings.current().validation)
        return self

    @property
    def _store(self) -> VideoStore:
        return open_store(self.storage, XaiVideoSettings.current().home)

    async def atrigger(
        self,
        prompt: str,
        *,
        image_url: str | None = None,
        video_url: str | None = None,
        duration: int | None = None,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        model: str | None = None,
        user: str | None = None,
        key: str | None = None,
        regenerate: bool = False,
        on_unknown: OnUnknown = "raise",
    ) -> "XaiVideoRun":
        """Start a video, and pay for it, unless its key has been started already.

        Args:
            prompt: What should be seen, at most 4096 characters. May be empty with `image_url`.
            image_url: First frame of a new clip: an https, `data:` or `s3://` URL, or a local file.
            video_url: Clip to edit, named in the same ways. It keeps its duration, aspect ratio and resolution:
                those of the block do not count.
            duration: Seconds, instead of the block's.
            aspect_ratio: Aspect ratio, instead of the block's.
            resolution: Resolution, instead of the block's.
            model: xAI model id, instead of the block's.
            user: Tag of the end user on whose behalf the video is made.
            key: The video's name in the store, without extension. With the same key it is never paid for twice.
                Without one it is derived from the run, or in a script from this very call: each makes a new video.
            regenerate: Pay for a new attempt where the last one failed, was moderated or expired.
            on_unknown: `resubmit` sends again a submission of which nobody knows whether it was accepted.

        Returns:
            The run, with its key.

        Raises:
            XaiVideoError: As `start_video`.
        """
        check_timeout(self.timeout_seconds)
        if video_url is None:
            duration = self.duration if duration is None else duration
            aspect_ratio = self.aspect_ratio if aspect_ratio is None else aspect_ratio
            resolution = self.resolution if resolution is None else resolution
        receipt = await astart_video(
            prompt,
            image_url=image_url,
            video_url=video_url,
            duration=duration,
            aspect_ratio=aspect_ratio,
            resolution=resolution,
            model=self.model if model is None else model,
            user=user,
            key=key,
            storage=self.storage,
            credentials=self.credentials,
            regenerate=regenerate,
            on_unknown=on_unknown,
            delivery=self.delivery,
        )
        return XaiVideoRun(self, receipt.key, receipt.request_id)

    async def arun_of(self, key: str | None = None, *, request_id: str | None = None) -> "XaiVideoRun":
        """Find a run again, wherever it was triggered. It costs nothing.

        Args:
            key: The video's name in the store.
            request_id: xAI's request id, of a log, the xAI console, another tool. It is taken for that of the key;
                without a key, the video is stored under its request id.

        Returns:
            The run.

        Raises:
            InvalidRequest: If neither is given.
            StorageError: If the key has no receipt, or it can't be read.
            KeyConflict: If the key has another request.
            ApiError: If xAI can't be asked, or does not know the request id.
        """
        if request_id is not None:
            receipt = await aadopt_video(
                request_id, request_id if key is None else key, storage=self.storage, credentials=self.credentials
            )
        elif key is not None:
            receipt = await _read(self._store, key)
        else:
            raise InvalidRequest("key: None is not allowed; allowed: the key of a video, or a request_id.")
        return XaiVideoRun(self, receipt.key, receipt.request_id)

    @override
    def trigger(  # type: ignore[override]
        self,
        prompt: str,
        *,
        image_url: str | None = None,
        video_url: str | None = None,
        duration: int | None = None,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        model: str | None = None,
        user: str | None = None,
        key: str | None = None,
        regenerate: bool = False,
        on_unknown: OnUnknown = "raise",
    ) -> "XaiVideoRun":
        """Start a video, and pay for it, unless its key has been started already; `atrigger` in synchronous code."""
        return synchronous(self.atrigger)(
            prompt,
            image_url=image_url,
            video_url=video_url,
            duration=duration,
            aspect_ratio=aspect_ratio,
            resolution=resolution,
            model=model,
            user=user,
            key=key,
            regenerate=regenerate,
            on_unknown=on_unknown,
        )

    def run_of(self, key: str | None = None, *, request_id: str | None = None) -> "XaiVideoRun":
        """Find a run again, wherever it was triggered; `arun_of` in synchronous code."""
        return synchronous(self.arun_of)(key, request_id=request_id)


@dataclass(frozen=True)
class XaiVideoRun(JobRun[Video]):
    """One video that was triggered. It holds no state: `XaiVideoGenerator.run_of` makes it again from its key.

    Attributes:
        generator: The block that triggered it.
        key: The video's name in the store, without extension.
        request_id: xAI's request id; None as long as only the delivery of the video can tell.
    """

    generator: XaiVideoGenerator = field(repr=False)
    key: str
    request_id: str | None = None

    async def await_for_completion(self) -> None:
        """Wait until the video is done, and store it: xAI keeps it for a short time only.

        Cancelling stops the waiting only: xAI has no cancel. The same key goes on waiting later.

        Raises:
            VideoTimeout: If it was not done in the block's `timeout_seconds`.
            GenerationError: If there will be no video.
            XaiVideoError: As `wait_for_video` and `save_video`.
        """
        receipt = await await_for_video(
            self.key,
            timeout_seconds=self.generator.timeout_seconds,
            storage=self.generator.storage,
            credentials=self.generator.credentials,
        )
        await asave_video(receipt, storage=self.generator.storage, credentials=self.generator.credentials)

    async def afetch_result(self) -> Video:
        """Get the stored video. It neither waits nor asks xAI.

        Returns:
            The video.

        Raises:
            GenerationError: If there will be no video.
            StorageError: If it is not stored yet, or no longer where its receipt says.
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
                raise lost(receipt.file)
            return receipt.video(store.receipt_uri(self.key))

    @override
    def wait_for_completion(self) -> None:  # type: ignore[override]
        """Wait until the video is done, and store it; `await_for_completion` in synchronous code."""
        synchronous(self.await_for_completion)()

    @override
    def fetch_result(self) -> Video:  # type: ignore[override]
        """Get the stored video; `afetch_result` in synchronous code."""
        return synchronous(self.afetch_result)()


async def _read(store: VideoStore, key: str) -> Receipt:
    with with_key(key):
        return (await Journal(store).read(key)).receipt
