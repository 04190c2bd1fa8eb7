"""Submit a batch, suspend the run until its videos are there, and publish them: no worker waits meanwhile.

The flow runs from its beginning each time it is resumed: `submit_videos` then finds every row's receipt and pays for
nothing again. The collector (`collect_videos`, on a schedule) resumes it once all its videos are there.
Suspending needs a deployment: serve this file, or use the one of `xai-video setup`.
"""

from typing import Annotated

from prefect import flow
from prefect.flow_runs import asuspend_flow_run
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from prefect_xai_video import CredentialsBlock, StorageBlock, asubmit_videos, form_input

A_WEEK = 7 * 24 * 3600


@flow(name="publish-when-ready", persist_result=False)
async def publish_when_ready(
    manifest: Annotated[str, form_input("Manifest")],
    budget_usd: Annotated[float, form_input("Budget in USD")] = 5.0,
    storage: StorageBlock = None,
    credentials: CredentialsBlock = None,
) -> list[str]:
    """Submit the rows of a manifest, wait suspended, and publish the videos.

    Args:
        manifest: CSV, JSONL or Parquet file, local or s3://; as for generate_videos.
        budget_usd: Most that each start of this run may pay, in USD.
        storage: Bucket or directory for the videos. Default: a directory where the flow runs, namely xai-video in
            Prefect's home unless configured otherwise.
        credentials: Block with the xAI API key. Default: XAI_API_KEY where the flow runs.
    """
    report = await asubmit_videos(
        manifest, budget_usd=budget_usd, allow_failures=True, storage=storage, credentials=credentials
    )
    if report.open:
        # The collector resumes runs whose key begins with "xai-video", once none of their videos is open any more.
        await asuspend_flow_run(key=f"xai-video-{flow_run.run_count}", timeout=A_WEEK)
    published = [row.uri for row in report.rows if row.uri]
    get_run_logger().info("%d of %d videos are published", len(published), report.count)
    return published


if __name__ == "__main__":
    publish_when_ready.serve(name="by-hand")
