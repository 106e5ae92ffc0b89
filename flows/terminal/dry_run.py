"""A dry run on the terminal: the prompts, the first one as the model reads it, the stages' times, the judges' calls."""

from rich.console import Console
from rich.table import Table

from components.dry_run.estimates import total
from components.dry_run.judging import Calls
from components.dry_run.plan import RoundPlan
from components.dry_run.prompt import ShownPrompt
from components.feedback.selection import by_kind
from components.report.wording import SHORT_STAGES, count, duration, memory
from flows.dry_run import DryRun
from flows.terminal.console import PlainConsole

MOST_CHARACTERS, MOST_TOKENS = 1500, 60
UNKNOWN_PRICE = "unknown"
LINE_WIDTH = 300
"""Longest line of a table in a file or a pipe."""


def print_dry_run(console: Console, dry: DryRun, *, num_rounds: int) -> None:
    """Print what a start would do.

    Args:
        console: Console to print on.
        dry: The dry run.
        num_rounds: Rounds that the start would add.
    """
    plan, sizes = dry.plan, dry.plan.sizes
    champion = f"round {dry.champion_round}" if dry.champion_round else "the start model"
    _line(console, f"\ndry run of campaign {dry.campaign}, round {dry.round} from {champion}: nothing is written there")
    if dry.demonstrations:
        _line(console, f"tried on policy.model itself: a start trains it on {dry.demonstrations} first")
    outside = "a data set" if dry.thumbs is None else "the thumbs of users"
    drawn = f"{count(sizes.round_prompts)} a round" if sizes.round_prompts else f"this round's data is {outside}"
    _line(
        console,
        f"prompts  {count(sizes.train_prompts)} to train on ({drawn}), {count(sizes.held_out_prompts)} held out "
        f"({count(sizes.judged_held_out)} evaluated)",
    )
    if dry.thumbs is not None:
        _line(console, f"thumbs   {_thumbs(dry)}")
    _line(console, f"pairs    about {count(round(plan.pairs))} to train on, in {plan.steps} steps ({plan.pairs_basis})")
    _print_prompt(console, plan.prompt)
    _print_stages(console, dry, num_rounds)
    _print_calls(console, plan)


def _thumbs(dry: DryRun) -> str:
    """Return how many thumbs lie ready, and what the round does with them."""
    assert dry.thumbs is not None
    if dry.shortage is not None:
        return f"{dry.shortage}: the round takes none"
    kinds = by_kind(dry.thumbs.rows)
    said = f"{count(kinds['up'])} up, {count(kinds['down'])} down, {count(kinds['correction'])} corrections"
    beside = ", beside the pairs below" if dry.plan.sizes.round_prompts else ""
    apart = f"; {count(len(dry.thumbs.quarantined))} set aside" if dry.thumbs.quarantined else ""
    left = sum(dry.thumbs.left_out.values())
    unusable = f"; {count(left)} not usable" if left else ""
    later = f"; {count(dry.thumbs.waiting)} left to later rounds" if dry.thumbs.waiting else ""
    return f"{count(len(dry.thumbs.rows))} lie ready ({said}){beside}{apart}{unusable}{later}"


def _print_prompt(console: Console, prompt: ShownPrompt) -> None:
    text, tokens = prompt.text, [f"{text!r}={token}" for token, text in prompt.tokens]
    if len(text) > MOST_CHARACTERS:
        text = f"{text[: MOST_CHARACTERS // 2]}\n[...]\n{text[-MOST_CHARACTERS // 2 :]}"
    if len(tokens) > MOST_TOKENS:
        left_out = len(tokens) - MOST_TOKENS
        tokens = [*tokens[: MOST_TOKENS // 2], f"[{left_out} more]", *tokens[-MOST_TOKENS // 2 :]]
    _line(console, "\nthe first prompt, as the model reads it:")
    for line in text.split("\n"):
        _line(console, f"  {line}")
    _line(console, f"{len(prompt.tokens)} tokens: {' '.join(tokens)}")
    stops = ", ".join(f"{token} ({id})" for token, id in prompt.stops.items())
    _line(console, f"answers end at {stops}\n")


def _print_stages(console: Console, dry: DryRun, num_rounds: int) -> None:
    stages = dry.plan.stages
    _print_table(
        console,
        [
            {
                "stage": SHORT_STAGES[stage.stage],
                "time": duration(stage.seconds),
                "peak memory": memory(stage.memory_bytes),
                "from": stage.basis,
            }
            for stage in stages
        ],
    )
    seconds, unknown = total(stages)
    beside = f", without {' and '.join(SHORT_STAGES[stage] for stage in unknown)}" if unknown else ""
    start = "" if dry.start_seconds is None else f"; round 0 took {duration(dry.start_seconds)}"
    rounds = f", {num_rounds} rounds about {duration(num_rounds * seconds)}" if num_rounds > 1 else ""
    _line(console, f"a round takes about {duration(seconds)}{rounds}{beside}, besides recording it{start}\n")


def _print_calls(console: Console, plan: RoundPlan) -> None:
    for name in plan.not_called:
        why = "the round waits for them" if name == "people" else "its code may ask a paid service: its cost is unknown"
        _line(console, f"judge {name} was not called, because {why}")
    if not plan.calls:
        if not plan.not_called:
            _line(console, "no chat model is asked")
        return
    _print_table(console, [_call(call) for call in plan.calls])
    _line(
        console,
        "at most, a round: prompts counted as bytes / 3, answers as endpoint.max_tokens; with repairs, if no answer is "
        "valid at first",
    )


def _call(call: Calls) -> dict[str, str]:
    return {
        "stage": SHORT_STAGES[call.stage],
        "model": call.model,
        "questions": count(call.questions),
        "prompt tokens": count(call.tokens.input),
        "answer tokens": count(call.tokens.output),
        "cost": _price(call.cost),
        "with repairs": _price(call.cost_with_repairs),
    }


def _price(cost: float | None) -> str:
    return UNKNOWN_PRICE if cost is None else f"{cost:.2f}" if cost >= 0.01 else f"{cost:.2g}"


def _print_table(console: Console, rows: list[dict[str, str]]) -> None:
    """Print rows whose keys are the headings; off a terminal, in lines as long as they are."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*row.values())
    wide = console if console.is_terminal else PlainConsole(file=console.file, width=LINE_WIDTH)
    wide.print(table, highlight=False)


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
