"""The two automations that `set_up.py` can create."""

from uuid import UUID

from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.actions import RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

VIDEOS = ResourceSpecification({"prefect.resource.id": "xai-video.*"})
PASSED_ON = ("key", "uri", "receipt_uri", "request_id")
"""What a follow-up gets of the stored video, where it has a parameter of that name."""


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
            match_related=ResourceSpecification(
                {
                    "prefect.resource.role": "deployment",
                    "prefect.resource.id": [f"prefect.deployment.{source}" for source in sources],
                }
            ),
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
