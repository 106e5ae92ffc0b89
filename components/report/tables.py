"""Show the rounds as rows of text, for a terminal. Reads only the content of campaign.json."""

from typing import Any

from components.campaign.state import State
from components.records import Interval, RoundRecord
from components.report.wording import count, decimal, rollback_line, stage_name


def round_rows(campaign_json: dict[str, Any]) -> list[dict[str, str]]:
    """Return one row per finished round, oldest first; the keys are the column headings, in order.

    Args:
        campaign_json: Content of campaign.json.
    """
    state = State.model_validate(campaign_json)
    return [_row(record, state.champion.round) for record in state.rounds]


def measure_rows(campaign_json: dict[str, Any]) -> list[dict[str, str]]:
    """Return one row per finished round: the challenger's reward, KL and length, and the seconds of each stage.

    A missing value is a dash.
    """
    rounds = State.model_validate(campaign_json).rounds
    stages = list(dict.fromkeys(stage for record in rounds for stage in record.seconds))
    return [
        _measures(record) | {stage_name(stage): decimal(record.seconds.get(stage), 1) for stage in stages}
        for record in rounds
    ]


def decisions(campaign_json: dict[str, Any]) -> list[str]:
    """Return one line per finished round: the gate's decision and all its reasons."""
    rounds = State.model_validate(campaign_json).rounds
    return [f"round {record.round} {_standing(record)}: {'; '.join(record.reasons)}" for record in rounds]


def rollback_lines(campaign_json: dict[str, Any]) -> list[str]:
    """Return one line per rollback to an earlier champion."""
    return [rollback_line(rollback) for rollback in State.model_validate(campaign_json).rollbacks]


def _row(record: RoundRecord, champion: int) -> dict[str, str]:
    return {
        "round": str(record.round) + ("*" if record.round == champion else ""),
        "pairs": count(record.num_pairs),
        "distinct-2": decimal(record.distinct_2, 4),
        "equal": decimal(record.equal_samples, 2),
        "wins vs start": _estimate(record.win_rate_vs_start),
        "wins vs champion": _estimate(record.win_rate_vs_champion),
        "gate": _standing(record),
    }


def _measures(record: RoundRecord) -> dict[str, str]:
    return {
        "round": str(record.round),
        "reward": decimal(record.mean_reward, 2),
        "KL": decimal(record.kl_to_start, 1),
        "tokens": decimal(record.mean_tokens, 1),
    }


def _standing(record: RoundRecord) -> str:
    return "promoted" if record.promoted else "refused"


def _estimate(interval: Interval) -> str:
    return f"{decimal(interval.value, 3)} ({decimal(interval.low, 3)}–{decimal(interval.high, 3)})"
