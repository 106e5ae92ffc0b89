"""Prefect's automations around our flows: end runs whose process is gone, and report rounds to a webhook."""

from datetime import timedelta
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from components.records import RoundRecord

FLOWS = ["iterative-dpo", "dpo-round", "report", "gc"]
SILENCE = timedelta(minutes=10)
"""A little more than three of Prefect's heartbeats at their slowest default."""
PROMOTED, REFUSED = "ratchet.round.promoted", "ratchet.round.refused"

# `text` is what chat services show; the other keys are for programs.
_ROUND = """{"event": {{ event.event | tojson }}, \
"campaign": {{ event.payload.campaign | tojson }}, "round": {{ event.payload.round }}, \
"text": {{ event.payload.text | tojson }}}"""
_FAILURE = """{"event": "ratchet.run.failed", \
"run": {{ flow_run.name | tojson }}, "state": {{ flow_run.state.name | tojson }}, \
"text": {{ ("Flow run " ~ flow_run.name ~ " " ~ flow_run.state.name ~ ": " ~ flow_run.state.message) | tojson }}}"""


def automations(webhook: UUID | None, *, silence: timedelta = SILENCE) -> list[AutomationCore]:
    """Return the automations that belong to the deployments.

    Args:
        webhook: Id of the block with the address of notifications; None sends none.
        silence: How long a run may go without a heartbeat before it counts as dead.
    """
    return [_dead_runs(silence), *([] if webhook is None else _notifications(webhook))]


def emit_outcome(campaign: str, record: RoundRecord) -> None:
    """Emit the event that a round was promoted or refused, with its reasons."""
    verdict = "promoted" if record.promoted else "refused"
    emit_event(
        PROMOTED if record.promoted else REFUSED,
        resource={"prefect.resource.id": f"ratchet.campaign.{campaign}", "prefect.resource.name": campaign},
        payload={
            "campaign": campaign,
            "round": record.round,
            "text": f"{campaign}, round {record.round} {verdict}: {'; '.join(record.reasons)}",
        },
    )


def _dead_runs(silence: timedelta) -> AutomationCore:
    return AutomationCore(
        name="ratchet: end runs whose process is gone",
        description="Marks a run that no longer sends heartbeats as Crashed; the campaign's next start continues it.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=silence,
        ),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, message=f"no heartbeat for {silence}: its process is gone")
        ],
    )


def _notifications(webhook: UUID) -> list[AutomationCore]:
    rounds = [
        AutomationCore(
            name=f"ratchet: tell when a round is {verdict}",
            trigger=EventTrigger(
                expect={event},
                match={"prefect.resource.id": "ratchet.campaign.*"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[CallWebhook(block_document_id=webhook, payload=_ROUND)],
        )
        for event, verdict in ((PROMOTED, "promoted"), (REFUSED, "refused"))
    ]
    run_failed = EventTrigger(
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": "iterative-dpo"},
        posture=Posture.Reactive,
        threshold=1,
    )
    failures = AutomationCore(
        name="ratchet: tell when a run failed",
        trigger=run_failed,
        actions=[CallWebhook(block_document_id=webhook, payload=_FAILURE)],
    )
    return [*rounds, failures]
