"""A cheap draft, a review by a person, then the final: `python flows/draft_and_final.py` offers it in the Prefect UI.

During the review the run is suspended, so no worker waits. After the run is resumed, the flow starts again from the
top. That costs nothing: the keys are derived from the run's id, which stays the same, and no key is paid for twice.
"""

from itertools import count
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from prefect_xai_video import (
    AspectRatio,
    CredentialsBlock,
    Prompt,
    StorageBlock,
    Video,
    agenerate_video,
    build_request,
    dollars,
    form_input,
)

Seconds = Annotated[int, Field(ge=1, le=15), form_input("Duration")]


class Review(RunInput):
    """The form for the person who resumes the run."""

    decision: Literal["make the final", "make another draft", "stop"]
    prompt: str


@flow(name="draft-and-final", flow_run_name="draft and final, {duration} s", persist_result=False)
async def draft_and_final(
    prompt: Prompt,
    duration: Seconds = 6,
    aspect_ratio: Annotated[AspectRatio, form_input("Aspect ratio")] = "16:9",
    storage: StorageBlock = None,
    credentials: CredentialsBlock = None,
) -> Video | State:
    """Make a draft at 480p, wait for a person's decision, and make the final at 720p.

    Args:
        prompt: Description of the video.
        duration: Length in seconds, 1-15.
        aspect_ratio: Shape of the picture.
        storage: Bucket or directory for the videos. Default: a directory where the flow runs, namely xai-video in
            Prefect's home unless configured otherwise.
        credentials: Block with the xAI API key. Default: XAI_API_KEY where the flow runs.
    """
    clip = {"duration": duration, "aspect_ratio": aspect_ratio, "storage": storage, "credentials": credentials}
    for number in count(1):
        draft = await make_video(f"{flow_run.id}/draft-{number}", prompt, resolution="480p", **clip)
        form = Review.with_initial_data(description=question(number, draft, duration), prompt=prompt)
        review = await asuspend_flow_run(wait_for_input=form, key=f"draft-{number}")
        if review.decision == "stop":
            return Completed(name="Rejected", message=f"Stopped after draft {number}. No final was made or paid for.")
        prompt = review.prompt
        if review.decision == "make the final":
            break
    return await make_video(f"{flow_run.id}/final", prompt, resolution="720p", **clip)


async def make_video(key: str, prompt: str, **clip: Any) -> Video:
    """Make the video of a key, or return it if it exists."""
    video = await agenerate_video(prompt, key=key, **clip)
    if video.key != key:
        raise RuntimeError(f"Prefect returned the result of another call: the video {video.key}.")
    return video


def question(number: int, draft: Video, duration: int) -> str:
    """Write the text of the form in Markdown: where the draft is, and what each decision costs."""
    costs = {
        resolution: dollars(build_request("a draft", duration=duration, resolution=resolution).estimated_cost_usd)
        for resolution in ("480p", "720p")
    }
    paid = costs["480p"] if draft.cost_usd is None else dollars(draft.cost_usd)
    return (
        f"**Is draft {number} good enough?** It cost {paid}. Its artifact shows it, and it is stored at\n\n"
        f"`{draft.uri}`\n\n"
        f"- *make the final*: about {costs['720p']}. xAI renders a new video from the prompt below at 720p, so it "
        f"will not match the draft frame by frame.\n"
        f"- *make another draft*: about {costs['480p']}, from the prompt below. Then you are asked again.\n"
        f"- *stop*: no further cost."
    )


if __name__ == "__main__":
    draft_and_final.serve(name="by-hand")
