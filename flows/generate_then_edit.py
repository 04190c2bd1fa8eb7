"""Generate a video, edit it, and publish both together: `python flows/generate_then_edit.py` offers it in the UI."""

from typing import Annotated, Literal

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.filesystems import LocalFileSystem
from pydantic import Field

from prefect_xai_video import Video, XaiVideoSettings, agenerate_video
from prefect_xai_video.capabilities import AspectRatio, dollars
from prefect_xai_video.forms import CredentialsBlock, Prompt, StorageBlock, drawn

Seconds = Annotated[int, Field(ge=1, le=8), drawn("Duration")]
"""An edit takes at most 8.7 s of video, so what is going to be edited must not be longer."""


@flow(name="generate-then-edit", flow_run_name="generate and edit {name}", persist_result=False)
async def generate_then_edit(
    prompt: Prompt,
    edit_prompt: Annotated[str, drawn("Prompt of the edit")],
    name: Annotated[str, drawn("Name of both")],
    duration: Seconds = 6,
    aspect_ratio: Annotated[AspectRatio, drawn("Aspect ratio")] = "16:9",
    resolution: Annotated[Literal["480p", "720p"], drawn("Resolution")] = "480p",
    storage: StorageBlock = None,
    credentials: CredentialsBlock = None,
) -> list[Video]:
    """Make a video, have it edited, and publish both in one index.

    Args:
        prompt: What should be seen.
        edit_prompt: What the edit should change.
        name: Folder for both in the storage. With the same name nothing is paid for twice.
        duration: Seconds, 1-8: an edit takes at most 8.7.
        aspect_ratio: Shape of the picture.
        resolution: Of both videos.
        storage: Where the videos and the index go. Default: the directory of the setting HOME.
        credentials: The xAI API key. Default: XAI_API_KEY of the environment.
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
    # Only now: whoever finds the index finds both videos.
    index = index_of(name, {"original": original, "edited": edited})
    await storage.awrite_path(f"{name}/index.md", index.encode())
    await acreate_markdown_artifact(index, key="published", description=f"{name}, original and edited")
    return [original, edited]


def index_of(name: str, videos: dict[str, Video]) -> str:
    """The index, in Markdown: it lies beside the videos, and is what the Prefect UI shows."""
    lines = [f"# {name}", "", "| | video | seconds | cost |", "|---|---|---|---|"]
    for title, video in videos.items():
        cost = "not told" if video.cost_usd is None else dollars(video.cost_usd)
        lines.append(f"| {title} | {video.uri} | {video.duration} | {cost} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    generate_then_edit.serve(name="by-hand")
