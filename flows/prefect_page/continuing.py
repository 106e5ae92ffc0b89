"""Let the rounds go on for which people have voted, and show on their runs' pages how far the others are.

The labelling page calls it again and again. It asks nobody but the Prefect server, and keeps nothing that a restart
could lose: what waits is in the campaigns' directories.
"""

import logging
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound

from components.campaign.waiting import WAITING, Waiting, read_waiting
from components.labelling.progress import TaskProgress, read_progress
from components.labelling.task import has_votes
from components.report.round import escape_markdown
from components.runtime.rare_log import RareLog
from flows.servers.key import PrefectApi
from tasks.record_round import artifact_key

log = logging.getLogger(__name__)


class WaitingRounds:
    """The rounds below a directory of campaigns that wait for people."""

    def __init__(self, runs: Path, api: PrefectApi, *, page: str) -> None:
        """Look at nothing yet.

        Args:
            runs: Directory of the campaigns.
            api: The Prefect server whose runs wait.
            page: Address of the labelling page, for links.
        """
        self._runs, self._api, self._page = runs, api, page
        self._shown: dict[UUID, str] = {}
        self._errors = RareLog(log)

    def look(self) -> None:
        """Resume the suspended runs whose tasks are closed, and renew their artifacts.

        An error of one campaign is logged, and the others go on.

        Raises:
            httpx.TransportError: The Prefect server does not answer.
        """
        from prefect.settings import temporary_settings

        suspended = self._suspended()
        if not suspended:
            return
        with temporary_settings(updates=self._api.settings()), get_client(sync_client=True) as client:
            for campaign, (waits, run) in suspended.items():
                # A server that does not answer is away for all of them.
                away = (httpx.TransportError,)
                with self._errors.attempt(f"votes of campaign {campaign.name}", but=away):
                    if has_votes(campaign, waits.round) and _is_suspended(client, run):
                        _resume(client, run)
                        log.info("campaign %s goes on with round %d: people have voted", campaign.name, waits.round)
                with self._errors.attempt(f"progress of campaign {campaign.name}", but=away):
                    self._show(client, campaign, run, waits, read_progress(campaign, round=waits.round))

    def _suspended(self) -> dict[Path, tuple[Waiting, UUID]]:
        """Return the campaigns that wait, with the runs to resume; one whose file is damaged is left out."""
        suspended = {}
        for campaign in sorted(path.parent for path in self._runs.glob(f"*/{WAITING}")):
            with self._errors.attempt(f"campaign {campaign.name}"):
                waits = read_waiting(campaign)
                if waits is not None and waits.flow_run is not None:
                    suspended[campaign] = (waits, UUID(waits.flow_run))
        return suspended

    def _show(
        self, client: SyncPrefectClient, campaign: Path, run: UUID, waits: Waiting, tasks: list[TaskProgress]
    ) -> None:
        """Show on a run's page how far its people are, if that has changed."""
        text = _description(campaign.name, waits, tasks, self._page)
        if self._shown.get(run) == text:
            return
        done, wanted = sum(task.labelled for task in tasks), sum(task.quota for task in tasks)
        percent = min(100.0, 100.0 * done / wanted) if wanted else 0.0
        key = f"{artifact_key(campaign.name, f'round-{waits.round:03d}')}-people"
        known = client.read_artifacts(
            artifact_filter=ArtifactFilter(
                key=ArtifactFilterKey(any_=[key]), flow_run_id=ArtifactFilterFlowRunId(any_=[run])
            )
        )
        if known:
            client.update_artifact(known[0].id, ArtifactUpdate(data=percent, description=text))
        else:
            client.create_artifact(
                ArtifactCreate(key=key, type="progress", data=percent, description=text, flow_run_id=run)
            )
        self._shown[run] = text


def _is_suspended(client: SyncPrefectClient, run: UUID) -> bool:
    try:
        state = client.read_flow_run(run).state
    except ObjectNotFound:
        return False
    return state is not None and state.type == StateType.PAUSED


def _resume(client: SyncPrefectClient, run: UUID) -> None:
    """Resume a suspended run.

    Raises:
        ValueError: Prefect refuses, as after its deployment was deleted.
    """
    answer = client.resume_flow_run(run)
    if answer.status is not SetStateStatus.ACCEPT:
        reason = getattr(answer.details, "reason", None) or answer.status.value
        raise ValueError(f"Prefect does not resume flow run {run} ({reason}): cancel it, and start the campaign again")


def _description(campaign: str, waits: Waiting, tasks: list[TaskProgress], page: str) -> str:
    """Return how far people are, as one paragraph of Markdown, the first words of which the run's page shows."""
    parts = []
    for task in tasks:
        until = f", until {task.deadline}" if task.deadline else ""
        state = f"closed by {task.closed}" if task.closed else f"open{until}"
        pairs = f"[{task.labelled} of {task.quota} pairs labelled]({page}/c/{campaign}/)"
        parts.append(f"{pairs}: {task.votes} votes of {task.annotators} people, {state}")
    return f"{'; '.join(parts)}. Round {waits.round} of {escape_markdown(campaign)} waits for them since {waits.since}."
