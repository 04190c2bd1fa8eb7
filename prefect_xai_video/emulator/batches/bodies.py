"""The shape of the JSON bodies of the Batch API, and of the lines of its files."""

from typing import Any, Literal

from prefect_xai_video.emulator.bodies import ExtensionBody, GenerationBody, Shape, Source


class CreateBody(Shape):
    """Body of POST /batches."""

    name: str
    input_file_id: str | None = None


class VideoGenerationBody(GenerationBody):
    """A `video_generation` of a batch: with `video`, it is an edit."""

    video: Source | None = None


class BatchRequestBody(Shape):
    """A request of a batch. Of the kinds that xAI has, these make videos."""

    video_generation: VideoGenerationBody | None = None
    video_extension: ExtensionBody | None = None


class EntryBody(Shape):
    """A request of a batch, with its id."""

    batch_request_id: str | None = None
    batch_request: BatchRequestBody


class AddBody(Shape):
    """Body of POST /batches/{id}/requests."""

    batch_requests: tuple[EntryBody, ...]


class LineBody(Shape):
    """A line of a file."""

    custom_id: str
    method: Literal["POST"]
    url: str
    body: dict[str, Any]
