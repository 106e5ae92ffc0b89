"""Tells MLflow who the champion is when no round says so: after a rollback."""

from pathlib import Path

from components.campaign.state import read_state
from components.tracking.registry import move_champion
from components.tracking.runs import find_campaign_run, tell_champion
from components.tracking.store import connected, store_exists


def announce_champion(campaign_dir: Path) -> None:
    """Moves the alias `champion` to campaign.json's champion, and says so in the run `campaign`.

    A campaign that MLflow does not know stays unknown.

    Args:
        campaign_dir: runs/<campaign>.

    Raises:
        TrackingUnavailable: MLflow cannot be reached or written. The next recorded round brings both up to date.
    """
    state = read_state(campaign_dir)
    assert state is not None, campaign_dir
    if not store_exists(campaign_dir.parent):
        return
    with connected(campaign_dir.parent) as client:
        experiment = client.get_experiment_by_name(campaign_dir.name)
        if experiment is None:
            return
        move_champion(client, campaign_dir.name, state)
        run = find_campaign_run(client, experiment.experiment_id, campaign_dir.name, state)
        if run is not None:
            tell_champion(client, run, state)
