"""Show one round as markdown, for the page of its flow run. Text from a model is escaped: it is data, not markup."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.campaign.files import CampaignFiles, RoundFiles, read_campaign
from components.records import Interval
from components.report import thumbs
from components.report.data_checks import HEADINGS as CHECK_HEADINGS
from components.report.data_checks import CheckRow, checked_round
from components.report.judging import HEADINGS, NOTE, PART_HEADINGS, judge_rows, part_rows
from components.report.samples import MODELS, Sample, mixed_outcomes, read_samples
from components.report.wording import (
    NOTHING,
    collapse,
    comparison,
    count,
    decimal,
    duration,
    estimate,
    memory,
    model_name,
    outcome,
    sampling_path,
    scoring_path,
    share,
    stage_name,
)
from components.runtime.printable import one_line

NUM_SAMPLES = 3
MAX_CHARACTERS = 600


def round_markdown(campaign_dir: Path, round: int) -> str:
    """Return a summary of one round from its files.

    It shows the decision and its reasons, the numbers, three comparisons and examples of the data checks (unless
    `tracking.texts` is false), the judge and the checked pairs.

    Args:
        campaign_dir: runs/<campaign>.
        round: Number of the round, finished or not.

    Raises:
        ValueError: The campaign or the round does not exist.
    """
    campaign = read_campaign(campaign_dir)
    files = campaign.round_files(round)
    compared = _comparisons(files) if campaign.config.tracking.texts else ""
    checks = _data_checks(files, texts=campaign.config.tracking.texts)
    details = (compared, _judge(files), _thumbs(files), _validation(files), checks, _tracking(campaign, files))
    sections = [_headline(campaign, files), _diagnosis(files), _numbers(campaign, files), *details]
    return "\n\n".join(section for section in sections if section) + "\n"


def escape_markdown(text: str) -> str:
    """Escape a text so that markdown shows it literally, on one line, in a table's cell too.

    Addresses in it do not become links.
    """
    flat = one_line(text, between=" ↵ ")
    escaped = re.sub(r"[\\`*_\[\]<>#|~&@]|:(?=//)|(?<=www)\.", lambda mark: f"\\{mark[0]}", flat)
    # At the beginning of a list's item these begin another list or draw a line.
    return re.sub(r"^(\d*)([-+](?=[\s-]|$)|(?<=\d)[.)](?=\s|$))", r"\1\\\2", escaped)


def _headline(campaign: CampaignFiles, files: RoundFiles) -> str:
    title = f"# Round {files.round} of {escape_markdown(campaign.name)}"
    if files.promoted is None:
        return f"{title}: unfinished\n\nStill to do: {', '.join(stage_name(stage) for stage in files.pending)}."
    lines = [f"{title}: {'promoted' if files.promoted else 'refused'}"]
    if files.evaluated is not None:
        opponent = f"the champion ({model_name(campaign.champion_before(files.round))})"
        interval = Interval.model_validate(files.evaluated["win_rate_vs_champion"])
        lines.append(f"The challenger {comparison(interval, opponent, campaign.config.evaluation.confidence)}.")
    reasons = [f"- {escape_markdown(reason)}" for reason in files.reasons]
    return "\n\n".join([*lines, "\n".join(["**Decision**", "", *reasons])] if reasons else lines)


def _diagnosis(files: RoundFiles) -> str:
    """Return the section on failures of the training; rounds of earlier versions have no diagnosis."""
    collapsed, causes = collapse(files.generated or {}), (files.trained or {}).get("diagnosis") or []
    sections = {"Sampling collapsed": [collapsed] if collapsed else [], "Training went wrong": causes}
    return "\n\n".join(
        "\n".join([f"**{title}**", "", *(f"- {escape_markdown(line)}" for line in lines)])
        for title, lines in sections.items()
        if lines
    )


def _numbers(campaign: CampaignFiles, files: RoundFiles) -> str:
    parts = []
    if files.evaluated is not None:
        measured = files.evaluated
        rows = (
            [[decimal(measured["mean_reward"][model], 3) for model in MODELS]]
            if measured["mean_reward"] is not None
            else []
        )
        names = ["mean reward"] if rows else []
        rows += [[decimal(measured["mean_tokens"][model], 1) for model in MODELS]]
        rows += [[share(measured[key][model]) for model in MODELS] for key in ("empty_share", "unfinished_share")]
        names += ["mean tokens", "empty answers", "unfinished answers"]
        parts.append(
            _table(["held-out answers", *MODELS], [[name, *row] for name, row in zip(names, rows, strict=True)])
        )
    parts.append(_table(["measure", "value"], [[name, value] for name, value in _measures(campaign, files).items()]))
    return "## Numbers\n\n" + "\n\n".join(parts)


def _measures(campaign: CampaignFiles, files: RoundFiles) -> dict[str, str]:
    measures = {}
    if files.evaluated is not None:
        measured = files.evaluated
        for opponent in ("champion", "start"):
            interval = Interval.model_validate(measured[f"win_rate_vs_{opponent}"])
            measures[f"win rate vs {opponent}"] = f"{estimate(interval, 3)}, {count(interval.n)} prompts"
        measures["KL to the start, nats per response"] = estimate(
            Interval.model_validate(measured["kl_to_start_interval"]), 2
        )
        measures["reward accuracy on held-out pairs"] = decimal(measured["reward_accuracy"], 3)
        measures["reward margin on held-out pairs"] = decimal(measured["reward_margin"], 3)
        measures["invalid verdicts"] = share(measured["invalid_share"])
        for rule, shares in measured.get("violations", {}).items():
            measures[f"answers that break {escape_markdown(rule)}"] = (
                f"{share(shares['challenger'])} (champion {share(shares['champion'])})"
            )
    measures |= _diversity(files)
    way = sampling_path(files.generated or {})
    if way is not None:
        measures["responses sampled by"] = escape_markdown(way)
    if files.trained is not None:
        measures["pairs trained on"] = count(files.trained["num_pairs"])
        measures["optimizer steps"] = _steps(files.trained)
        path = scoring_path(files.trained)
        if path is not None:
            measures["rows of the training"] = escape_markdown(path)
        measures["first and last loss"] = (
            f"{decimal(files.trained['first_loss'], 4)}, {decimal(files.metrics[-1]['loss'], 4)}"
        )
    for stage, manifest in files.manifests.items():
        measures[stage_name(stage)] = f"{duration(manifest.seconds)}, {memory(manifest.peak_memory_bytes)}"
    return measures


def _steps(trained: dict[str, Any]) -> str:
    """Return the steps that were made; rounds of earlier versions made all and published the last one."""
    made = count(trained["num_steps"])
    if trained.get("published_step") not in (None, trained["num_steps"]):
        made += f"; those behind step {count(trained['published_step'])} are published, as `keep: best` asks"
    if trained.get("stopped_early"):
        made += f"; of {count(trained['planned_steps'])}, stopped early: {escape_markdown(trained['stopped_early'])}"
    return made


def _diversity(files: RoundFiles) -> dict[str, str]:
    """Return how much the responses differ; rounds of earlier versions did not measure it."""
    sampled = (files.generated or {}).get("diversity")
    held_out = (files.evaluated or {}).get("diversity")
    measures = {}
    if sampled is not None:
        measures["distinct-1 and distinct-2 of the samples"] = (
            f"{decimal(sampled['distinct_1'], 3)}, {decimal(sampled['distinct_2'], 3)}"
        )
        measures["two samples of a prompt are equal"] = share(sampled["equal_samples"])
        measures["prompts whose samples are all equal"] = share(sampled["all_equal"])
    if held_out is not None:
        values = {name: decimal(held_out[name]["distinct_2"], 3) for name in MODELS}
        measures["distinct-2 of held-out answers"] = (
            f"{values['challenger']} (champion {values['champion']}, start {values['start']})"
        )
    return measures


def _comparisons(files: RoundFiles) -> str:
    samples = mixed_outcomes(read_samples(files), NUM_SAMPLES)
    if not samples:
        return ""
    rows = [
        [_cut(sample.prompt), *(_answer(sample, index) for index in range(len(MODELS))), _outcomes(sample)]
        for sample in samples
    ]
    return "## Comparisons\n\n" + _table(["prompt", *MODELS, "the challenger's outcome"], rows)


def _answer(sample: Sample, index: int) -> str:
    answer = sample.answers[index]
    reward = "" if answer.reward is None else f" *reward {decimal(answer.reward, 2)}*"
    return (_cut(answer.text) or "*(empty)*") + reward


def _outcomes(sample: Sample) -> str:
    return f"vs champion: {outcome(sample.outcome_vs_champion)}, vs start: {outcome(sample.outcome_vs_start)}"


def _cut(text: str) -> str:
    return escape_markdown(
        text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}… ({len(text):,} characters)"
    )


def _judge(files: RoundFiles) -> str:
    tables = {HEADINGS: judge_rows(files), PART_HEADINGS: part_rows(files)}
    sections = [_escaped_table(names, rows) for names, rows in tables.items() if rows]
    return "\n\n".join(["## The judge", *sections, NOTE]) if sections else ""


def _thumbs(files: RoundFiles) -> str:
    """Return what became of the thumbs that the round looked at; nothing for a round that takes none."""
    tables = {thumbs.HEADINGS: thumbs.thumb_rows(files), thumbs.CAUSE_HEADINGS: thumbs.cause_rows(files)}
    sections = [_escaped_table(names, rows) for names, rows in tables.items() if rows]
    return "\n\n".join(["## Thumbs of users", *sections, thumbs.NOTE]) if sections else ""


def _validation(files: RoundFiles) -> str:
    if files.validated is None:
        return ""
    names = ("received", "replayed", "train", "eval", "quarantined")
    numbers = [*(count(files.validated[name]) for name in names), share(files.validated["quarantine_share"])]
    table = _table([*names, "quarantine share"], [numbers])
    reasons = [f"- {escape_markdown(reason)}: {count(number)}" for reason, number in files.validated["reasons"].items()]
    return "\n\n".join(["## Validation", table, *(["\n".join(reasons)] if reasons else [])])


def _data_checks(files: RoundFiles, *, texts: bool) -> str:
    """Return the verdicts of the data checks; none if they are off, or an earlier version ran the round."""
    checked = checked_round(files, texts=texts)
    if checked is None:
        return ""
    table = _table(CHECK_HEADINGS, [[escape_markdown(cell) for cell in row.cells] for row in checked.rows])
    skipped = f"Skipped, since they are off or have nothing to measure: {', '.join(checked.skipped)}."
    examples = [f"- {_check_example(row)}" for row in checked.broken if row.examples]
    sections = [
        table,
        *(["\n".join(examples)] if examples else []),
        *([escape_markdown(skipped)] if checked.skipped else []),
    ]
    return "\n\n".join(["## Data checks", *sections])


def _check_example(row: CheckRow) -> str:
    first = row.examples[0]
    excerpt = f": {first.excerpt}" if first.excerpt else ""
    return escape_markdown(f"{row.name}, {first.place}, {first.detail}{excerpt}")


def _tracking(campaign: CampaignFiles, files: RoundFiles) -> str:
    if files.tracking is None:
        return ""
    version = files.tracking["model_version"]
    registered = f"model version {version}" if version is not None else "no model version"
    page = f"; rounds side by side: `{campaign.compare_page}` behind the MLflow server's address"
    return f"MLflow experiment `{campaign.name}`, run `{files.tracking['run_id']}`, {registered}{page}."


def _escaped_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return _table(head, [[escape_markdown(cell) for cell in row] for row in rows])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell or NOTHING for cell in line) + " |" for line in lines)
