"""Generate a video, edit it, and publish both: `python flows/generate_then_edit.py` serves it to the Prefect UI."""

from typing import Annotated, Literal

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.filesystems import LocalFileSystem
from pydantic import Field

from prefect_xai_video import (
    AspectRatio,
    CredentialsBlock,
    Prompt,
    StorageBlock,
    Video,
    XaiVideoSettings,
    agenerate_video,
    dollars,
    form_input,
)

Seconds = Annotated[int, Field(ge=1, le=8), form_input("Duration")]
"""An edit accepts at most 8.7 s of video, so the original must not be longer."""


@flow(name="generate-then-edit", flow_run_name="generate and edit {name}", persist_result=False)
async def generate_then_edit(
    prompt: Prompt,
    edit_prompt: Annotated[str, form_input("Prompt of the edit")],
    name: Annotated[str, form_input("Name of both videos")],
    duration: Seconds = 6,
    aspect_ratio: Annotated[AspectRatio, form_input("Aspect ratio")] = "16:9",
    resolution: Annotated[Literal["480p", "720p"], form_input("Resolution")] = "480p",
    storage: StorageBlock = None,
    credentials: CredentialsBlock = None,
) -> list[Video]:
    """Generate a video, edit it, and publish both in one index.

    Args:
        prompt: Description of the video.
        edit_prompt: Description of the change that the edit makes.
        name: Folder for both videos in the storage. With the same name, nothing is paid for twice.
        duration: Length in seconds, 1-8, since an edit accepts at most 8.7 seconds.
        aspect_ratio: Shape of the picture.
        resolution: Resolution of both videos.
        storage: Bucket or directory for the videos and the index. Default: a directory where the flow runs, namely
            xai-video in Prefect's home unless configured otherwise.
        credentials: Block with the xAI API key. Default: XAI_API_KEY where the flow runs.
    """
    storage = storage or LocalFileSystem(basepath=XaiVideoSettings.current().home)
    original = await agenerate_video(
        prompt,
        duration=duration,
        aspect_ratio=aspect_ratio,
        resolution=resolution,
        key=f"{name}/original",
        storage=storage,
        credentials=credentials,
    )
    edited = await agenerate_video(
        edit_prompt, video_url=original.uri, key=f"{name}/edited", storage=storage, credentials=credentials
    )
    if [original.key, edited.key] != [f"{name}/original", f"{name}/edited"]:
        raise RuntimeError(f"Prefect returned the results of other calls: {original.key} and {edited.key}.")
    # The index is written last, so everyone who finds it also finds both videos.
    index = index_of(name, {"original": original, "edited": edited})
    await storage.awrite_path(f"{name}/index.md", index.encode())
    await acreate_markdown_artifact(index, key="published", description=f"{name}, original and edited")
    return [original, edited]


def index_of(name: str, videos: dict[str, Video]) -> str:
    """Write the index in Markdown. It is stored next to the videos and shown in the Prefect UI."""
    lines = [f"# {name}", "", "| | video | seconds | cost |", "|---|---|---|---|"]
    for title, video in videos.items():
        cost = "unknown" if video.cost_usd is None else dollars(video.cost_usd)
        lines.append(f"| {title} | {video.uri} | {video.duration} | {cost} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    generate_then_edit.serve(name="by-hand")
