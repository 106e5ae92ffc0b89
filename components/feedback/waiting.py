"""Whether a round can begin, or waits for thumbs."""

import logging
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from components.artifacts import MANIFEST
from components.campaign.files import taken_thumbs
from components.campaign.state import round_directory
from components.config import CampaignConfig
from components.feedback.selection import Selection
from components.feedback.store import STORE, FeedbackStore
from components.records import ServiceFailed, TakeFeedbackRequest

log = logging.getLogger(__name__)


def feedback_shortage(directory: Path, config: CampaignConfig, round: int) -> str | None:
    """Return in one line why a round that trains on thumbs alone cannot begin; None if it can, or trains on other data.

    Texts beyond the retention limit are deleted first, since no server may be running that would do it.

    Args:
        directory: The campaign's directory.
        config: Its configuration.
        round: The round.
    """
    feedback = config.preferences.feedback
    try:
        FeedbackStore(directory / STORE).erase_texts(days=feedback.retention_days)
    except (ServiceFailed, ValueError) as error:
        if feedback.use != "off":
            raise
        log.warning("%s", error)  # a round that reads no thumbs needs none
    seeded = round == 1 and config.preferences.seed_pairs
    begun = (round_directory(directory, round) / "take_feedback" / MANIFEST).exists()
    if feedback.use != "only" or seeded or begun:
        return None
    from components.feedback.stage import selected

    return selected(feedback_request(directory, config, round)).shortage(feedback)


def ready_thumbs(directory: Path, config: CampaignConfig, round: int, *, now: datetime) -> Selection:
    """Return the thumbs that a round would take now. Deletes nothing, but counts no text that a start would delete.

    Args:
        directory: The campaign's directory.
        config: Its configuration.
        round: The round.
        now: The time, with its zone.
    """
    from components.feedback.stage import select_for

    request = feedback_request(directory, config, round)
    limit = (now - timedelta(days=config.preferences.feedback.retention_days)).isoformat(timespec="seconds")
    rows = [
        replace(row, messages=None, response=None, correction=None, erased_at=limit) if row.received_at < limit else row
        for row in FeedbackStore(request.store).rows()
    ]
    return select_for(request, rows)


def feedback_request(directory: Path, config: CampaignConfig, round: int) -> TakeFeedbackRequest:
    """Return the request that takes the thumbs that no round before this one took."""
    preferences = config.preferences
    return TakeFeedbackRequest(
        store=directory / STORE,
        feedback=preferences.feedback,
        singles=preferences.pairs == "unpaired",
        cut_answers=preferences.cut_responses == "any",
        phone_region=config.checks.phone_region,
        earlier=taken_thumbs(directory, round),
    )
