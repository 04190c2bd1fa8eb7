"""Serve the flows from this process, without a work pool or a worker: `python deployments/serve.py`.

The block `xai-credentials/xai` must exist; `xai-video setup` creates it.
"""

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.flows import EntrypointType

from prefect_xai_video import XaiCredentials, acollect_video, agenerate_long_video, agenerate_video


def main() -> None:
    """Serve the flows until the process is stopped."""
    options = {
        "name": "served",
        "tags": ["xai-video"],
        "parameters": {"credentials": XaiCredentials.load("xai")},
        "concurrency_limit": ConcurrencyLimitConfig(limit=10, collision_strategy="ENQUEUE"),
        "entrypoint_type": EntrypointType.MODULE_PATH,
    }
    flows = (agenerate_video, agenerate_long_video, acollect_video)
    serve(*(flow.to_deployment(**options) for flow in flows))


if __name__ == "__main__":
    main()
