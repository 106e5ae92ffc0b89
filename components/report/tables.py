"""The rounds as plain rows of text, for a terminal. Needs campaign.json's content and nothing else."""

from typing import Any

from components.campaign import State
from components.records import Interval, RoundRecord
from components.report.wording import count, decimal, stage_name


def round_rows(campaign_json: dict[str, Any]) -> list[dict[str, str]]:
    """One row a finished round, oldest first; the keys are the column headings, in order. Cells may have several lines.

    Args:
        campaign_json: Content of campaign.json.
    """
    state = State.model_validate(campaign_json)
    return [_row(record, state.champion.round) for record in state.rounds]


def _row(record: RoundRecord, champion: int) -> dict[str, str]:
    standing = "promoted" if record.promoted else "refused"
    return {
        "round": str(record.round),
        "pairs": count(record.num_pairs),
        "wins against": f"start {_estimate(record.win_rate_vs_start)}\nchampion {_estimate(record.win_rate_vs_champion)}",
        "means": f"reward {decimal(record.mean_reward, 3)}\nKL {decimal(record.kl_to_start, 2)}\ntokens {decimal(record.mean_tokens, 1)}",
        "outcome": "\n".join([standing + (", champion" if record.round == champion else ""), *record.reasons]),
        "seconds": "\n".join(f"{stage_name(stage)} {decimal(seconds, 1)}" for stage, seconds in record.seconds.items()),
    }


def _estimate(interval: Interval) -> str:
    """The interval goes below its value: a terminal is short of columns, not of lines."""
    return f"{decimal(interval.value, 3)}\n{decimal(interval.low, 3)} to {decimal(interval.high, 3)}"
