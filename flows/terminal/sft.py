"""A model that was trained on demonstrations, on the terminal."""

from pathlib import Path

from rich.console import Console

from components.artifacts import read_json
from components.report.wording import count, decimal
from flows.terminal.rounds import print_table


def print_sft(console: Console, directory: Path) -> None:
    """Print how the held-out loss changed, what was left out, and how a campaign begins with the model.

    Args:
        console: Console to print on.
        directory: Directory that the stage `sft` published.
    """
    result = read_json(directory / "sft.json")
    train, held_out = result["train"], result["held_out"]
    lines = [
        f"\ntrained {result['trained']} on {count(train['rows'])} conversations, {count(train['trained_tokens'])} "
        f"tokens of the assistant, in {count(result['num_steps'])} steps; on conversations of other prompts:"
    ]
    _print(console, lines)
    rows = [
        {"model": name, "loss per token": decimal(each["loss"], 4), "perplexity": decimal(each["perplexity"], 3)}
        for name, each in (("base", held_out["before"]), ("trained", held_out["after"]))
    ]
    print_table(console, [row | {"tokens": count(held_out["trained_tokens"])} for row in rows])
    lines = [f"left out: {count(number)} x {reason}" for reason, number in result["left_out"].items()]
    changed = train["turns_not_trained_on"] + held_out["turns_not_trained_on"]
    if changed:
        lines.append(
            f"not trained on: {count(changed)} earlier turns, which the chat template writes otherwise than their text"
        )
    if not result["scoring"]["packed"]:
        lines.append(f"trained in padded rows, which takes more time and memory: {result['scoring']['reason']}")
    places = (
        ("model", directory),
        ("plot", directory / "plots" / "loss.png"),
        ("policy", f"policy: {{model: {directory}}}"),
    )
    _print(console, [*lines, *(f"{name:<8} {place}" for name, place in places)])


def _print(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
