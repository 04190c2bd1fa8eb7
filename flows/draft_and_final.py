"""A cheap draft, a person's word, then the final: `python flows/draft_and_final.py` offers it in the Prefect UI.

While the person thinks, the run is suspended: no worker waits. When it is resumed, the flow starts again from the
top. That costs nothing, since the run keeps its id, the keys are made of that id, and a key is never paid for twice.
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

from prefect_xai_video import Video, agenerate_video
from prefect_xai_video.capabilities import DEFAULT_MODEL, AspectRatio, dollars, estimate_cost
from prefect_xai_video.forms import CredentialsBlock, Prompt, StorageBlock, drawn

Seconds = Annotated[int, Field(ge=1, le=15), drawn("Duration")]


class Review(RunInput):
    """The form that is shown to whoever resumes the run."""

    decision: Literal["make the final", "make another draft", "stop"]
    prompt: str


@flow(name="draft-and-final", flow_run_name="draft and final, {duration} s", persist_result=False)
async def draft_and_final(
    prompt: Prompt,
    duration: Seconds = 6,
    aspect_ratio: Annotated[AspectRatio, drawn("Aspect ratio")] = "16:9",
    storage: StorageBlock = None,
    credentials: CredentialsBlock = None,
) -> Video | State:
    """Make a draft at 480p, wait for a person's word, and make the final at 720p.

    Args:
        prompt: What should be seen.
        duration: Seconds, 1-15.
        aspect_ratio: Shape of the picture.
        storage: Where the videos go. Default: the directory of the setting HOME.
        credentials: The xAI API key. Default: XAI_API_KEY of the environment.
    """
    clip = {"duration": duration, "aspect_ratio": aspect_ratio, "storage": storage, "credentials": credentials}
    for number in count(1):
        draft = await make_video(f"{flow_run.id}/draft-{number}", prompt, resolution="480p", **clip)
        form = Review.with_initial_data(description=question(number, draft, duration), prompt=prompt)
        review = await asuspend_flow_run(wait_for_input=form, key=f"draft-{number}")
        if review.decision == "stop":
            return Completed(name="Rejected", message=f"Stopped after draft {number}: no final was paid for.")
        prompt = review.prompt
        if review.decision == "make the final":
            break
    return await make_video(f"{flow_run.id}/final", prompt, resolution="720p", **clip)


async def make_video(key: str, prompt: str, **clip: Any) -> Video:
    """Make the video of a key, or find it again."""
    video = await agenerate_video(prompt, key=key, **clip)
    if video.key != key:
        raise RuntimeError(f"Prefect returned the result of another call: the video {video.key}.")
    return video


def question(number: int, draft: Video, duration: int) -> str:
    """What the person is to look at, and what each answer costs, in Markdown."""
    costs = {
        resolution: dollars(estimate_cost(DEFAULT_MODEL, seconds=duration, resolution=resolution))
        for resolution in ("480p", "720p")
    }
    paid = costs["480p"] if draft.cost_usd is None else dollars(draft.cost_usd)
    return (
        f"**Is draft {number} good enough?** It has cost {paid}. Its artifact shows it, and it lies at\n\n"
        f"`{draft.uri}`\n\n"
        f"- *make the final*: about {costs['720p']}. It is rendered anew from the prompt below, at 720p, so it "
        f"will not be the draft frame by frame.\n"
        f"- *make another draft*: about {costs['480p']}, from the prompt below. Then you are asked again.\n"
        f"- *stop*: nothing more is paid for."
    )


if __name__ == "__main__":
    draft_and_final.serve(name="by-hand")
