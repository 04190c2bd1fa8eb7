"""The three automations that `xai-video setup` can create."""

from datetime import timedelta
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from prefect_xai_video.orchestration.rescues import MAX_RESCUES, RESCUED

VIDEOS = ResourceSpecification({"prefect.resource.id": "xai-video.*"})
PASSED_ON = ("key", "uri", "receipt_uri", "request_id")
"""Facts of the stored video that a follow-up receives, if it has a parameter of that name."""

SILENCE = timedelta(seconds=540)
"""Time without a heartbeat after which the worker counts as dead: three of Prefect's default intervals of 180 s."""


def rescue(pool: str, deployments: list[UUID], silence: timedelta = SILENCE) -> AutomationCore:
    """Restart runs of these deployments whose heartbeats have stopped because their worker died.

    A restart can't pay twice, since the run reads its receipt first. A run that ended, was cancelled or is suspended
    has reported that by an event and is not restarted; if a late heartbeat hides the event, the restarted run detects
    it. Subflow runs are not restarted, since they have no deployment. After three rescues the run stops itself.
    """
    return AutomationCore(
        name=f"xai-video: rescue {pool}",
        description=f"Restarts runs whose worker died, up to {MAX_RESCUES} times each.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=of_deployments(deployments),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=silence,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.SCHEDULED,
                name=RESCUED,
                message="The worker of this run died. The run is restarted, without paying again.",
                force=True,
            )
        ],
    )


def of_deployments(deployments: list[UUID]) -> ResourceSpecification:
    """Match events of runs of these deployments, by their related resources."""
    return ResourceSpecification(
        {
            "prefect.resource.role": "deployment",
            "prefect.resource.id": [f"prefect.deployment.{deployment}" for deployment in deployments],
        }
    )


def notify(block_document_id: UUID) -> AutomationCore:
    """Send a notification for each video that failed, was moderated, or whose submission has an unknown outcome."""
    return AutomationCore(
        name="xai-video: notify",
        description="Sends a notification when a video fails, is moderated, or may have been paid for.",
        trigger=EventTrigger(
            expect={"xai-video.failed", "xai-video.moderated", "xai-video.unknown"},
            match=VIDEOS,
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block_document_id,
                subject="{{ event.event }}: {{ event.payload.key }}",
                body=(
                    "{{ event.payload.message }}\n\n{{ event.payload.next_step or '' }}\n\n"
                    "Request id: {{ event.payload.request_id or 'none' }}\n"
                    "Cost in USD: {{ event.payload.cost_usd or event.payload.estimated_cost_usd or 'unknown' }}\n"
                    "Receipt: {{ event.payload.receipt_uri }}"
                ),
            )
        ],
    )


def follow_up(deployment: DeploymentResponse, sources: list[UUID]) -> AutomationCore:
    """Run a deployment for each video that one of the deployments `sources` stores.

    Videos of other runs are ignored, including those of the follow-up itself, which would otherwise never end.
    """
    form = (deployment.parameter_openapi_schema or {}).get("properties", {})
    return AutomationCore(
        name="xai-video: follow-up",
        description="Runs another deployment when a video is stored.",
        trigger=EventTrigger(
            expect={"xai-video.stored"},
            match=VIDEOS,
            match_related=of_deployments(sources),
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            RunDeployment(
                deployment_id=deployment.id,
                parameters={name: f"{{{{ event.payload.{name} }}}}" for name in PASSED_ON if name in form},
            )
        ],
    )
