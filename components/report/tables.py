"""The rounds as plain rows of text, for a terminal. Needs campaign.json's content and nothing else."""

from typing import Any

from components.campaign import State
from components.records import RoundRecord
from components.report.wording import count, decimal, estimate, sentence_list, stage_seconds


def round_rows(campaign_json: dict[str, Any]) -> list[dict[str, str]]:
    """One row a finished round, oldest first; the keys are the column headings, in order.

    Args:
        campaign_json: Content of campaign.json.
    """
    state = State.model_validate(campaign_json)
    return [_row(record, state.champion.round) for record in state.rounds]


def _row(record: RoundRecord, champion: int) -> dict[str, str]:
    standing = " (champion)" if record.round == champion else ""
    return {
        "round": str(record.round),
        "pairs": count(record.num_pairs),
        "win rate vs start": estimate(record.win_rate_vs_start, 3),
        "win rate vs champion": estimate(record.win_rate_vs_champion, 3),
        "reward": decimal(record.mean_reward, 3),
        "KL": decimal(record.kl_to_start, 2),
        "tokens": decimal(record.mean_tokens, 1),
        "promoted": ("yes" if record.promoted else "no") + standing,
        "why": sentence_list(record.reasons),
        "seconds a stage": stage_seconds(record.seconds),
    }
