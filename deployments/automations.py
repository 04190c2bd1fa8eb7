"""The three automations that `set_up.py` can create."""

from datetime import timedelta
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from prefect_xai_video.rescues import MAX_RESCUES, RESCUED

VIDEOS = ResourceSpecification({"prefect.resource.id": "xai-video.*"})
PASSED_ON = ("key", "uri", "receipt_uri", "request_id")
"""What a follow-up gets of the stored video, where it has a parameter of that name."""

SILENCE = timedelta(seconds=540)
"""A run that was silent for so long has lost its worker: three times Prefect's default heartbeat of 180 s."""


def rescue(pool: str, deployments: list[UUID], silence: timedelta = SILENCE) -> AutomationCore:
    """Set a run of these deployments of a pool going again whose heartbeats have stopped, since its worker died.

    That can't pay twice: the run reads its receipt first. A run that has ended, was cancelled or is suspended has
    reported that with an event, and is left alone; if a heartbeat came later, the run itself sees to it. Subflow runs
    are left alone, since they have no deployment. After three rescues the run stops itself.
    """
    return AutomationCore(
        name=f"xai-video: rescue {pool}",
        description=f"Sets runs going again whose worker died, up to {MAX_RESCUES} times each.",
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
                message="The worker of this run died: it is set going again, without paying again.",
                force=True,
            )
        ],
    )


def of_deployments(deployments: list[UUID]) -> ResourceSpecification:
    """What events of runs of these deployments are related to."""
    return ResourceSpecification(
        {
            "prefect.resource.role": "deployment",
            "prefect.resource.id": [f"prefect.deployment.{deployment}" for deployment in deployments],
        }
    )


def notify(block_document_id: UUID) -> AutomationCore:
    """Tell a notification block of each video that is not to be had, or may have been paid for without one."""
    return AutomationCore(
        name="xai-video: notify",
        description="Says what happened to a video that failed, was moderated, or may have been paid for.",
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
                    "Cost in USD: {{ event.payload.cost_usd or event.payload.estimated_cost_usd or 'not told' }}\n"
                    "Receipt: {{ event.payload.receipt_uri }}"
                ),
            )
        ],
    )


def follow_up(deployment: DeploymentResponse, sources: list[UUID]) -> AutomationCore:
    """Run a deployment for each video that one of the deployments `sources` has stored.

    Videos of any other run don't count, and so not those that the follow-up makes itself: they would go on for ever.
    """
    form = (deployment.parameter_openapi_schema or {}).get("properties", {})
    return AutomationCore(
        name="xai-video: follow-up",
        description="Runs another deployment when a video was stored.",
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
