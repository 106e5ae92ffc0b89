"""Write the campaign's report: one HTML file that needs no network, made only from the campaign's files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.campaign.files import STAGES, CampaignFiles, RoundFiles, read_campaign
from components.campaign.stopping import converged_round
from components.config import CampaignConfig, differences
from components.records import Interval
from components.report import judging, people, thumbs, wording
from components.report.charts import round_charts, training_charts
from components.report.data_checks import CheckedRound, checked_round
from components.report.lineage import lineage
from components.report.pages import HERE, write_page
from components.report.samples import read_samples
from components.report.wording import (
    collapse,
    comparison,
    count,
    decimal,
    estimate,
    model_name,
    stage_name,
    start_answers,
    start_remedies,
    start_training,
)

Rows = Callable[[RoundFiles], list[tuple[str, ...]]]
JUDGE_TABLES: dict[tuple[str, ...], Rows] = {
    judging.HEADINGS: judging.judge_rows,
    judging.PART_HEADINGS: judging.part_rows,
}
PEOPLE_TABLES: dict[tuple[str, ...], Rows] = {
    people.HEADINGS: people.people_rows,
    people.ANNOTATOR_HEADINGS: people.annotator_rows,
}
THUMB_TABLES: dict[tuple[str, ...], Rows] = {
    thumbs.HEADINGS: thumbs.thumb_rows,
    thumbs.CAUSE_HEADINGS: thumbs.cause_rows,
}
"""By the headings of a table, what makes its rows of a round."""
REPORT = "report.html"
TEMPLATE = HERE / "report.html.j2"
EARLIER_SAMPLES = 8
"""Samples shown per round before the latest, so that a long campaign's report stays small."""
SAMPLED_ROUNDS = 20
"""Number of latest rounds whose samples are shown; the samples of earlier rounds stay in their files."""
MAX_CHARACTERS = 4000
"""Largest number of characters shown of a prompt or an answer."""


def write_report(campaign_dir: Path) -> Path:
    """Write report.html from the campaign's files, whether its rounds are finished or not, and return its path.

    Args:
        campaign_dir: runs/<campaign>.

    Raises:
        ValueError: The directory does not contain a campaign, or its configuration is not valid.
    """
    names = ("decimal", "count", "share", "duration", "memory", "short_digest", "outcome", "stage_name")
    filters = {name: getattr(wording, name) for name in names} | {"cut": _cut}
    return write_page(campaign_dir / REPORT, TEMPLATE, _view(read_campaign(campaign_dir)), filters)


def _view(campaign: CampaignFiles) -> dict[str, Any]:
    """Return everything that the template shows."""
    resolved = campaign.config.model_dump(mode="json")
    defaults = CampaignConfig(campaign=campaign.name).model_dump(mode="json")
    return {
        "campaign": campaign,
        "headline": _headline(campaign),
        "standing": _standing(campaign),
        "rollbacks": [wording.rollback_line(rollback) for rollback in campaign.state.rollbacks],
        "facts": _facts(campaign),
        "rounds": [_round_row(campaign, round_) for round_ in campaign.rounds],
        "padded_reasons": _padded_reasons(campaign),
        "notes": _notes(campaign),
        "judge_tables": _tables(campaign, JUDGE_TABLES),
        "judge_note": judging.NOTE,
        "people_tables": _tables(campaign, PEOPLE_TABLES),
        "people_note": people.NOTE,
        "thumb_tables": _tables(campaign, THUMB_TABLES),
        "thumb_note": thumbs.NOTE,
        "costly_headings": judging.COSTLY_HEADINGS,
        "costly_rows": [(round_.round, row) for round_ in campaign.rounds for row in judging.costly_rows(round_)],
        "violation_headings": judging.VIOLATION_HEADINGS,
        "violation_rows": [(round_.round, row) for round_ in campaign.rounds for row in judging.violation_rows(round_)],
        "function_headings": judging.FUNCTION_HEADINGS,
        "function_rows": [(round_.round, row) for round_ in campaign.rounds for row in judging.function_rows(round_)],
        "checked_rounds": _checked_rounds(campaign),
        "max_checked_rounds": SAMPLED_ROUNDS,
        "stages": STAGES,
        "charts": round_charts(campaign),
        "training_charts": training_charts(campaign),
        "sample_sets": _sample_sets(campaign),
        "max_sampled_rounds": SAMPLED_ROUNDS,
        "lineage": lineage(campaign),
        "changes": differences(defaults, resolved),
        "config_json": json.dumps(resolved, indent=2, ensure_ascii=False),
        "command": f"ratchet run runs/{campaign.name}/config.json --rounds {max(1, _last_round(campaign))}",
    }


def _notes(campaign: CampaignFiles) -> list[str]:
    """Return what to know of the start model's answers and of rounds whose samples were all equal."""
    measured = (campaign.start or {}).get("measured")
    remedies = start_remedies(measured, max_unfinished_share=campaign.config.gate.max_unfinished_share)
    converged = converged_round(campaign.directory, campaign.state.last_round)
    collapsed = [(round_.round, collapse(round_.generated or {})) for round_ in campaign.rounds]
    return [
        *(f"Round 0: {line}." for line in start_training(campaign.start)),
        *([] if measured is None else [f"Round 0: {start_answers(measured)}.", *(f"{line}." for line in remedies)]),
        *(f"Round {number}: {line}." for number, line in collapsed if line is not None),
        *([] if converged is None else [f"{converged[0].upper()}{converged[1:]}."]),
        *(f"Round {_last_round(campaign)}: {line}." for line in people.judge_alarms(campaign.finished)),
    ]


def _padded_reasons(campaign: CampaignFiles) -> list[str]:
    """Return the reasons why rounds were trained in padded rows, each once."""
    paths = [(round_.trained or {}).get("scoring") for round_ in campaign.rounds]
    return list(dict.fromkeys(path["reason"] for path in paths if path is not None and not path["packed"]))


def _checked_rounds(campaign: CampaignFiles) -> list[CheckedRound]:
    """Return the data checks of the rounds that have them, the latest round first."""
    texts = campaign.config.tracking.texts
    checked = [checked_round(round_, texts=texts) for round_ in reversed(campaign.rounds)]
    return [round_ for round_ in checked if round_ is not None]


def _tables(
    campaign: CampaignFiles, sources: Mapping[tuple[str, ...], Rows]
) -> list[tuple[tuple[str, ...], list[tuple[int, tuple[str, ...]]]]]:
    """Return headings and (round, row) of each source; empty tables are left out."""
    tables = [
        (headings, [(each.round, row) for each in campaign.rounds for row in rows(each)])
        for headings, rows in sources.items()
    ]
    return [(headings, rows) for headings, rows in tables if rows]


def _headline(campaign: CampaignFiles) -> str:
    champion = campaign.champion_record
    if champion is not None:
        result = comparison(champion.win_rate_vs_start, "the start model", campaign.config.evaluation.confidence)
        return f"The champion is round {champion.round}. It {result}."
    if campaign.state.rollbacks:
        return "The start model is the champion again after a rollback."
    if campaign.finished:
        return (
            f"The start model is still the champion: the gate refused {_counted(len(campaign.finished), 'challenger')}."
        )
    return "The start model is the champion: no round is finished yet."


def _standing(campaign: CampaignFiles) -> str:
    promoted = sum(record.promoted for record in campaign.finished)
    text = f"{_counted(len(campaign.finished), 'round')} finished, {promoted} promoted"
    unfinished = [round_ for round_ in campaign.rounds if round_.record is None]
    if unfinished:
        text += f"; round {unfinished[-1].round} {_status(unfinished[-1])}"
    remaining = _last_round(campaign) - campaign.state.last_round
    return f"{text}; {_counted(remaining, 'round')} to go" if remaining > 0 else text


def _last_round(campaign: CampaignFiles) -> int:
    """Return the last round of the campaign's open start, else its last finished round."""
    return campaign.state.last_round if campaign.state.target is None else campaign.state.target


def _facts(campaign: CampaignFiles) -> list[tuple[str, str, str]]:
    """Return the headline's figures: name, value, explanation."""
    champion = campaign.champion_record
    if champion is None:
        return []
    interval = champion.win_rate_vs_start
    level = f"{100 * campaign.config.evaluation.confidence:g} % interval"
    facts = [
        ("Champion", f"round {champion.round}", f"digest {wording.short_digest(campaign.state.champion.digest)}"),
        (
            "Win rate vs start",
            decimal(interval.value, 3),
            f"{level} {decimal(interval.low, 3)} to {decimal(interval.high, 3)}",
        ),
        ("KL to the start", decimal(champion.kl_to_start, 2), "nats per response"),
        ("Mean length", decimal(champion.mean_tokens, 1), "tokens per response"),
    ]
    measured = campaign.round_files(champion.round).evaluated
    if measured is not None and measured["mean_reward"] is not None:
        start = decimal(measured["mean_reward"]["start"], 3)
        facts.insert(2, ("Mean reward", decimal(champion.mean_reward, 3), f"the start model has {start}"))
    return facts


def _status(round_: RoundFiles) -> str:
    if round_.promoted is not None:
        suffix = "" if round_.record is not None else ", not recorded yet"
        return ("promoted" if round_.promoted else "refused") + suffix
    return f"unfinished, next: {stage_name(round_.pending[0])}"


def _round_row(campaign: CampaignFiles, round_: RoundFiles) -> dict[str, Any]:
    record, measured = round_.record, round_.evaluated
    row: dict[str, Any] = {
        "files": round_,
        "kind": {True: "promoted", False: "refused", None: "unfinished"}[round_.promoted],
        "status": _status(round_),
        "opponent": model_name(campaign.champion_before(round_.round)),
        "is_champion": record is not None and record.round == campaign.state.champion.round,
        "seconds": {stage: manifest.seconds for stage, manifest in round_.manifests.items()}
        | (record.seconds if record else {}),
        "memory": {stage: manifest.peak_memory_bytes for stage, manifest in round_.manifests.items()},
        "path": (wording.scoring_path(round_.trained or {}) or "").partition(":")[0],
        "pairs": count(record.num_pairs if record else round_.trained["num_pairs"] if round_.trained else None),
        "equal_length": None,
    }
    if record is not None:
        numbers = {"vs_start": record.win_rate_vs_start, "vs_champion": record.win_rate_vs_champion}
        row |= {name: estimate(interval, 3) for name, interval in numbers.items()}
        controlled = record.length_controlled_win_rate_vs_champion
        row |= {} if controlled is None else {"equal_length": decimal(controlled.value, 3)}
        row |= {
            "reward": decimal(record.mean_reward, 3),
            "kl": decimal(record.kl_to_start, 2),
            "tokens": decimal(record.mean_tokens, 1),
        }
    elif measured is not None:
        row |= {
            name: estimate(Interval.model_validate(measured[f"win_rate_{name}"]), 3)
            for name in ("vs_start", "vs_champion")
        }
        reward = None if measured["mean_reward"] is None else measured["mean_reward"]["challenger"]
        row |= {"reward": decimal(reward, 3), "kl": decimal(measured["kl_to_start"], 2)}
        row |= {"tokens": decimal(measured["mean_tokens"]["challenger"], 1)}
    else:
        row |= dict.fromkeys(("vs_start", "vs_champion", "reward", "kl", "tokens"), wording.NOTHING)
    return row


def _sample_sets(campaign: CampaignFiles) -> list[dict[str, Any]]:
    """Return samples of the latest evaluated rounds, the latest round first and with all its samples."""
    evaluated = [round_ for round_ in reversed(campaign.rounds) if "evaluate" in round_.manifests][:SAMPLED_ROUNDS]
    sets = []
    for index, round_ in enumerate(evaluated):
        samples = read_samples(round_)
        selection = samples if index == 0 else samples[:EARLIER_SAMPLES]
        if selection:
            opponent = model_name(campaign.champion_before(round_.round))
            sets.append(
                {
                    "round": round_.round,
                    "opponent": opponent,
                    "samples": selection,
                    "total": len(samples),
                    "latest": index == 0,
                }
            )
    return sets


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}… (cut: {len(text):,} characters)"
