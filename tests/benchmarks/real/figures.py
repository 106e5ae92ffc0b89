"""The figures of `make real` as Markdown tables and a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from components.plots.figures import PAPER, styled, to_png
from components.records import Interval

SHOWN = {
    "round 1 over start": "round 1 against the start",
    "round 2 over start": "round 2 against the start",
    "round 3 over start": "round 3 against the start",
    "round 3 over round 1": "round 3 against round 1",
    "offline over start": "offline DPO against the start",
    "offline over round 3": "offline DPO against round 3",
}
"""Comparisons of the audit and their names."""
MEASURES = {"rate": "win rate", "length_controlled": "at equal length", "training_judge": "by the training judge"}


def as_markdown(summary: Mapping[str, Any]) -> str:
    """Return all tables."""
    parts = [_judges(summary["judges"])]
    for result in summary["seeds"]:
        parts += [f"Seed {result['seed']}, the gate's own numbers:", _rounds(result)]
        parts += [f"Seed {result['seed']}, fresh prompts that no gate saw:", _audit(result)]
    parts.append(_seconds(summary["seconds"]))
    return "\n\n".join(parts) + "\n"


def _judges(judges: Mapping[str, Any]) -> str:
    rows = []
    for name, measured in judges.items():
        training, people = measured["training"], measured["people"]["quality"]
        rows.append(
            [
                name.replace("_", " "),
                str(training["num_train_pairs"]),
                _interval(training["held_out"]["accuracy"]),
                f"{_interval(people['accuracy'])} of {people['num_pairs']}",
            ]
        )
    return _table(
        ["judge", "trained on pairs", "agrees on held-out pairs of its half", "agrees with the other half"], rows
    )


def _rounds(result: Mapping[str, Any]) -> str:
    rows = []
    for name, state in result["campaigns"].items():
        for record in state["rounds"]:
            rows.append(
                [
                    f"round {record['round']}" if name == "rounds" else "offline DPO",
                    str(record["num_pairs"]),
                    _interval(record["win_rate_vs_champion"]),
                    _interval(record["win_rate_vs_start"]),
                    f"{record['kl_to_start']:.1f}",
                    f"{record['mean_tokens']:.0f}",
                    "promoted" if record["promoted"] else "refused",
                ]
            )
    return _table(["round", "pairs", "wins vs champion", "wins vs start", "KL", "tokens", "gate"], rows)


def _audit(result: Mapping[str, Any]) -> str:
    compared, tokens = result["audit"], result["mean_tokens"]
    rows = []
    for key, shown in SHOWN.items():
        lengths = " and ".join(f"{tokens[model]:.0f}" for model in key.split(" over "))
        rows.append([shown, *(_interval(compared[key][name]) for name in MEASURES), lengths])
    return _table(["comparison", *MEASURES.values(), "tokens"], rows)


def _seconds(seconds: Mapping[str, float]) -> str:
    rows = [[name.replace("_", " "), f"{value / 60:.1f}"] for name, value in seconds.items()]
    return _table(["step", "minutes"], rows)


def _interval(value: Mapping[str, Any]) -> str:
    interval = Interval.model_validate(value)
    return f"{interval.value:.3f} ({interval.low:.3f}–{interval.high:.3f})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plot_win_rates(summary: Mapping[str, Any], path: Path) -> None:
    """Draw each comparison of the audit with its interval, one mark per seed and measure."""
    with styled(PAPER, "real"):
        figure = Figure(figsize=(6.8, 3.4), layout="constrained")
        axes = figure.subplots()
        colours = dict(zip(MEASURES, (PAPER.challenger, PAPER.chosen, PAPER.start), strict=True))
        number = len(MEASURES) * len(summary["seeds"])
        for place, key in enumerate(reversed(SHOWN)):
            marks = [(result, name) for result in summary["seeds"] for name in MEASURES]
            for order, (result, name) in enumerate(marks):
                interval = Interval.model_validate(result["audit"][key][name])
                height = place + 0.7 * (0.5 - (order + 0.5) / number)
                axes.plot([interval.low, interval.high], [height] * 2, color=colours[name])
                is_first = place == 0 and result is summary["seeds"][0]
                label = MEASURES[name] if is_first else None
                axes.plot(interval.value, height, "o", color=colours[name], markersize=4, label=label)
        axes.axvline(0.5, color=PAPER.muted, linewidth=1)
        axes.set_yticks(range(len(SHOWN)), list(reversed(SHOWN.values())))
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("share of fresh prompts on which the first one's answer is preferred")
        figure.legend(loc="outside upper left", ncols=len(MEASURES))
        to_png(figure, path)
