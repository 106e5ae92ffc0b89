"""Draw the report's charts as SVG for the page. A chart without data is left out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from components.campaign.files import CampaignFiles, RoundFiles
from components.plots.curves import LN2, MAX_ROUNDS, Training, draw_curves, is_measured, panels, token_panels
from components.plots.figures import THEMED, add_legend, new_chart, set_tooltip, styled, to_svg
from components.plots.stages import bin_edges
from components.records import Interval, RoundRecord
from components.report.wording import decimal, estimate, model_name

MAX_POINT_LABELS = 12
NAMED_STAKE = 0.3
"""Stake at which the curve of a round whose evidence suffices has its name."""
LEAST_STAKE = 1e-5
"""Stakes below are drawn there: they are lost."""
LONGEST_NAME = 18
"""Characters of a judge's name in a legend."""
MAX_JUDGES = 3
"""Judges beside people in one chart."""
MAX_TOOLTIPS = 30
"""Largest number of marks that have tooltips. More marks are too close together to point at, and are drawn in one
stroke, at a cost that does not grow."""


@dataclass(frozen=True)
class Chart:
    """A figure of the page."""

    title: str
    note: str
    svg: Markup


@dataclass(frozen=True)
class Mark:
    """One round's point in a chart."""

    x: float
    y: float
    promoted: bool
    tooltip: str


def round_charts(campaign: CampaignFiles) -> list[Chart]:
    """Draw what changes from round to round: win rate, reward against KL, lengths."""
    records = campaign.finished
    sampled = [round_ for round_ in campaign.rounds if "generate_responses" in round_.manifests]
    charts = []
    if records:
        charts.append(_win_rates(records))
    tested = [round_ for round_ in campaign.rounds if (round_.evaluated or {}).get("e_values")]
    if tested:
        charts.append(_evidence(tested[-MAX_ROUNDS:]))
    asked = [record for record in records if record.people is not None and record.people.judges]
    if asked:
        charts.append(_agreements(asked))
    if any(record.mean_reward is not None for record in records):
        charts.append(_reward_against_kl(campaign))
    if sampled:
        charts += [_lengths_by_round(campaign, sampled), _length_histogram(sampled[-1])]
    if any((round_.generated or {}).get("diversity") for round_ in sampled):
        charts.append(_diversity_by_round(campaign))
    return charts


def training_charts(campaign: CampaignFiles) -> list[Chart]:
    """Draw the training curves over the optimizer steps of all rounds."""
    trained = [round_ for round_ in campaign.rounds if "dpo_train" in round_.manifests]
    if not trained:
        return []
    left_out = f" The latest {MAX_ROUNDS} rounds." if len(trained) > MAX_ROUNDS else ""
    trainings = [
        Training(
            round=round_.round,
            metrics=round_.metrics,
            held_out=round_.trained["eval"] if round_.trained else None,
            # Rounds of earlier versions published their last step.
            published_step=round_.trained.get("published_step") if round_.trained else None,
        )
        for round_ in trained[-MAX_ROUNDS:]
    ]
    notes = {
        "Loss": "A diamond is the loss on the round's held-out pairs.",
        "Reward margin": "β-scaled log-ratio of chosen minus rejected; the diamond is on held-out pairs.",
        "Reward accuracy": "Share of pairs whose chosen response has the larger reward; diamond: held-out pairs.",
        "Log-probabilities": "Of whole responses. Both may fall; the rejected should fall faster.",
        "Entropy": "Of the policy, where the pairs' tokens stand. Near 0 it answers in one way only.",
        "Log-ratio to the reference": "On the pairs' tokens, so not an estimate of the KL, which the evaluation "
        "measures on fresh responses.",
        "Log-probabilities per token": "Means over tokens, so that they do not depend on lengths.",
        "Response length in training": "Tokens of the pairs' responses: chosen ones that are longer teach length.",
    }
    charts = []
    for title, curves in (panels(THEMED) | token_panels(THEMED)).items():
        if not any(is_measured(training, curve) for training in trainings for curve in curves):
            continue
        with styled(THEMED, title):
            figure, axes = new_chart()
            draw_curves(axes, trainings, curves, THEMED)
            if title == "Loss" and campaign.config.training.loss == "sigmoid":
                axes.axhline(LN2, color=THEMED.muted, lw=0.9, ls=(0, (4, 3)), label="ln 2: no preference learnt")
            if title == "Reward accuracy":
                axes.axhline(0.5, color=THEMED.muted, lw=0.9, ls=(0, (4, 3)), label="one half")
            add_legend(figure, axes)
            charts.append(Chart(title, notes[title] + left_out, to_svg(figure, f"{title} over optimizer steps")))
    return charts


def _win_rates(records: Sequence[RoundRecord]) -> Chart:
    with styled(THEMED, "win rates"):
        figure, axes = new_chart()
        axes.axhline(0.5, color=THEMED.muted, lw=0.9, ls=(0, (4, 3)), label="one half")
        against_start = [(record, record.win_rate_vs_start) for record in records]
        against_champion = [(record, record.win_rate_vs_champion) for record in records]
        _draw_intervals(axes, against_start, "vs start", THEMED.challenger, "o", -0.06)
        _draw_intervals(axes, against_champion, "vs champion", THEMED.champion, "s", 0.06)
        _round_axis(axes, [record.round for record in records])
        lowest = min(interval.low for _, interval in against_start + against_champion)
        axes.set_ylim(min(0.4, lowest - 0.05), 1.02)
        axes.set_ylabel("win rate")
        add_legend(figure, axes)
        note = "Share of held-out comparisons that the challenger wins, ties half. Hollow: the gate refused the round."
        return Chart(
            "Win rate by round", note, to_svg(figure, "Win rate against the start and against the champion, by round")
        )


def _evidence(tested: Sequence[RoundFiles]) -> Chart:
    """Draw the stake of each round's test, as a share of what suffices, over the prompts that were judged."""
    with styled(THEMED, "evidence"):
        figure, axes = new_chart()
        axes.axhline(1.0, color=THEMED.muted, lw=0.9, ls=(0, (4, 3)), label="suffices")
        least = 1.0
        for round_ in tested:
            measured = round_.evaluated
            assert measured is not None
            level, shown = measured["evidence"]["level"], measured["evidence"]["shown"]
            stakes = np.maximum(level * np.array([1.0, *measured["e_values"]]), LEAST_STAKE)
            least = min(least, float(stakes.min()))
            colour = THEMED.challenger if shown else THEMED.start
            (line,) = axes.plot(range(len(stakes)), stakes, color=colour, lw=1.1, alpha=0.8)
            end = f"e-value {measured['evidence']['e_value']:.3g} of {1 / level:.3g} on {len(stakes) - 1} prompts"
            set_tooltip(line, f"round {round_.round}: {end}")
            # Curves meet where they suffice, so their names stand on the way there.
            named = int(np.argmax(stakes >= NAMED_STAKE)) if shown else len(stakes) - 1
            _label_point(axes, str(round_.round), named, float(stakes[named]))
        axes.set_yscale("log")
        axes.set_ylim(max(LEAST_STAKE, least / 3), 3)
        axes.set_xlabel("held-out prompts judged")
        axes.set_ylabel("evidence, as a share")
        add_legend(figure, axes)
        note = (
            "The gate's bet that the challenger beats the champion. It begins at the round's level; at 1 it suffices."
        )
        return Chart("Evidence of the gate", note, to_svg(figure, "Evidence against the champion by judged prompts"))


def _agreements(records: Sequence[RoundRecord]) -> Chart:
    """Draw how often people agree with each other, and judges with them."""
    peoples = [(record, record.people) for record in records if record.people is not None]
    names = list(dict.fromkeys(name for _, people in peoples for name in people.judges))[:MAX_JUDGES]
    series = {name: [(record, people.judges.get(name)) for record, people in peoples] for name in names}
    series |= {"people": [(record, people.agreement) for record, people in peoples]}
    colours = [*(THEMED.challenger, THEMED.start, THEMED.muted)[: len(names)], THEMED.champion]
    with styled(THEMED, "people"):
        figure, axes = new_chart()
        axes.axhline(0.5, color=THEMED.muted, lw=0.9, ls=(0, (4, 3)))
        for number, ((name, points), colour) in enumerate(zip(series.items(), colours, strict=True)):
            measured = [(record, interval) for record, interval in points if interval is not None]
            shown = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\u2026"
            _draw_intervals(axes, measured, shown, colour, "o", 0.08 * (number - (len(series) - 1) / 2))
        _round_axis(axes, [record.round for record in records])
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("agreement")
        add_legend(figure, axes)
        note = "How often a judge prefers the answer that a person prefers, and two people the same one; ties left out."
        return Chart("Judges and people", note, to_svg(figure, "Agreement of judges with people, by round"))


def _draw_intervals(
    axes: Axes, points: Sequence[tuple[RoundRecord, Interval]], label: str, colour: str, marker: str, shift: float
) -> None:
    places = [record.round + shift for record, _ in points]
    axes.plot(places, [interval.value for _, interval in points], color=colour, lw=1, alpha=0.45)
    axes.vlines(
        places,
        [interval.low for _, interval in points],
        [interval.high for _, interval in points],
        color=colour,
        lw=1.6,
    )
    marks = [
        Mark(place, interval.value, record.promoted, f"round {record.round} {label}: {estimate(interval, 3)}")
        for place, (record, interval) in zip(places, points, strict=True)
    ]
    _draw_marks(axes, marks, marker, colour)
    axes.plot([], [], marker, color=colour, label=label)


def _draw_marks(axes: Axes, marks: Sequence[Mark], marker: str, colour: str) -> None:
    """Draw one mark per round.

    It is filled if the round was promoted and hollow if it was refused; up to `MAX_TOOLTIPS` marks have a tooltip.
    """
    single_marks = [[mark] for mark in marks]
    by_outcome = [[mark for mark in marks if mark.promoted is promoted] for promoted in (True, False)]
    for group in single_marks if len(marks) <= MAX_TOOLTIPS else filter(None, by_outcome):
        face = colour if group[0].promoted else THEMED.surface
        x, y = [mark.x for mark in group], [mark.y for mark in group]
        (line,) = axes.plot(x, y, marker, color=colour, markerfacecolor=face, markeredgewidth=1.4, zorder=3)
        if len(marks) <= MAX_TOOLTIPS:
            set_tooltip(line, group[0].tooltip)


def _reward_against_kl(campaign: CampaignFiles) -> Chart:
    scored = [(record, record.mean_reward) for record in campaign.finished if record.mean_reward is not None]
    with styled(THEMED, "reward against KL"):
        figure, axes = new_chart()
        path = [(record.kl_to_start, reward) for record, reward in scored if record.promoted]
        measured = [rewards["start"] for round_ in campaign.rounds if (rewards := _rewards(round_)) is not None]
        if measured:
            start_reward = measured[-1]
            path.insert(0, (0.0, start_reward))
            (mark,) = axes.plot(0, start_reward, "o", color=THEMED.start, zorder=3)
            set_tooltip(mark, f"start model: reward {decimal(start_reward, 3)}")
            _label_point(axes, "start", 0.0, start_reward)
        axes.plot([kl for kl, _ in path], [reward for _, reward in path], color=THEMED.challenger, lw=1, alpha=0.45)
        marks = [
            Mark(
                record.kl_to_start,
                reward,
                record.promoted,
                f"round {record.round}: reward {decimal(reward, 3)} at KL {decimal(record.kl_to_start, 2)}",
            )
            for record, reward in scored
        ]
        _draw_marks(axes, marks, "o", THEMED.challenger)
        for record, reward in scored:
            if len(scored) <= MAX_POINT_LABELS or record.round == campaign.state.champion.round:
                _label_point(axes, f"round {record.round}", record.kl_to_start, reward)
        axes.margins(x=0.12, y=0.18)
        axes.set_xlabel("KL to the start, nats per response")
        axes.set_ylabel("mean reward, held-out prompts")
        note = "Reward against distance from the start model. The line follows the champions; hollow: refused."
        return Chart(
            "Reward against KL", note, to_svg(figure, "Mean reward against KL to the start, one point per round")
        )


def _label_point(axes: Axes, text: str, x: float, y: float) -> None:
    axes.annotate(text, (x, y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8)


def _rewards(round_: RoundFiles) -> dict[str, float] | None:
    return None if round_.evaluated is None else round_.evaluated["mean_reward"]


def _lengths_by_round(campaign: CampaignFiles, sampled: Sequence[RoundFiles]) -> Chart:
    places = [round_.round for round_ in sampled]
    deciles = np.array([round_.length_deciles for round_ in sampled])
    with styled(THEMED, "lengths by round"):
        figure, axes = new_chart()
        if len(places) > 1:
            axes.fill_between(
                places, deciles[:, 0], deciles[:, 2], color=THEMED.start, alpha=0.18, lw=0, label="sampled, middle 80 %"
            )
        else:
            axes.vlines(
                places, deciles[:, 0], deciles[:, 2], color=THEMED.start, alpha=0.4, lw=6, label="sampled, middle 80 %"
            )
        axes.plot(places, deciles[:, 1], "o-", color=THEMED.start, label="median")
        evaluated = [record.round for record in campaign.finished]
        means = [record.mean_tokens for record in campaign.finished]
        axes.plot(evaluated, means, "D--", lw=1, ms=4.5, color=THEMED.challenger, label="challenger, held-out mean")
        _round_axis(axes, sorted({*places, *evaluated}))
        axes.set_ylim(bottom=0)
        axes.set_ylabel("tokens")
        add_legend(figure, axes)
        note = "Sampled responses are those from which the round's pairs were built."
        return Chart("Response length by round", note, to_svg(figure, "Response length in tokens, by round"))


def _diversity_by_round(campaign: CampaignFiles) -> Chart:
    """Draw how much the samples differ; rounds of earlier versions, which did not measure it, have no point."""
    measured = [(round_.round, (round_.generated or {}).get("diversity") or {}) for round_ in campaign.rounds]
    held_out = [(round_.round, (round_.evaluated or {}).get("diversity") or {}) for round_ in campaign.rounds]
    curves = {
        ("distinct-2", "o-", THEMED.start): [(x, values.get("distinct_2")) for x, values in measured],
        ("equal samples", "s-", THEMED.rejected): [(x, values.get("equal_samples")) for x, values in measured],
        ("held-out distinct-2", "D--", THEMED.challenger): [
            (x, values.get("challenger", {}).get("distinct_2")) for x, values in held_out
        ],
    }
    with styled(THEMED, "diversity by round"):
        figure, axes = new_chart()
        largest = 0.0
        for (label, style, colour), values in curves.items():
            points = [(x, value) for x, value in values if value is not None]
            if points:
                axes.plot(*zip(*points, strict=True), style, lw=1, ms=4.5, color=colour, label=label)
                largest = max(largest, *(value for _, value in points))
        _round_axis(axes, [round_.round for round_ in campaign.rounds])
        # In a small world few pairs of tokens differ: on an axis up to 1 every curve would lie on its floor.
        axes.set_ylim(0, min(1.02, 1.2 * largest or 1.02))
        axes.set_ylabel("share")
        add_legend(figure, axes)
        note = (
            "distinct-2: distinct pairs of neighbouring tokens among all, of the samples and of the challenger's "
            "held-out answers. Equal samples: the chance that two samples of a prompt are the same text."
        )
        return Chart("Response diversity by round", note, to_svg(figure, "Diversity of the responses, by round"))


def _length_histogram(round_: RoundFiles) -> Chart:
    lengths = round_.lengths
    assert lengths is not None
    finished = lengths.loc[lengths["finish_reason"] == "stop", "n_tokens"].to_numpy()
    unfinished = lengths.loc[lengths["finish_reason"] != "stop", "n_tokens"].to_numpy()
    edges = bin_edges(lengths["n_tokens"].to_numpy(), bins=36)
    with styled(THEMED, "length histogram"):
        figure, axes = new_chart()
        counts = [np.histogram(values, bins=edges)[0] for values in (finished, unfinished)]
        middles, width = (edges[1:] + edges[:-1]) / 2, (edges[1] - edges[0]) * 0.86
        axes.bar(middles, counts[0], width, color=THEMED.challenger, label="finished")
        if len(unfinished):
            axes.bar(middles, counts[1], width, bottom=counts[0], color=THEMED.rejected, label="cut at the limit")
        axes.set_xlabel("tokens")
        axes.set_ylabel("responses")
        add_legend(figure, axes)
        limited = f"{len(unfinished):,} of {len(lengths):,} reached the limit"
        note = f"Responses sampled in {model_name(round_.round)}; {limited}."
        return Chart("Response lengths", note, to_svg(figure, f"Histogram of response lengths in round {round_.round}"))


def _round_axis(axes: Axes, rounds: Sequence[int]) -> None:
    axes.set_xlim(rounds[0] - 0.5, rounds[-1] + 0.5)
    axes.set_xticks(range(rounds[0], rounds[-1] + 1, math.ceil((rounds[-1] - rounds[0] + 1) / 10)))
    axes.set_xlabel("round")
