"""Commands that collect preferences outside of a campaign: collect, pairs, calibrate."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.campaign.models import model_of_round
from components.campaign.state import campaign_directory, known_state
from components.config import load_config
from flows.terminal.console import console, quiet_libraries, reporting_errors

if TYPE_CHECKING:
    from components.records import ModelRef

ConfigOption = Annotated[
    Path,
    typer.Option(help="A campaign's YAML file; its sections judge and preferences are used, and active by collect."),
]
OutOption = Annotated[Path, typer.Option(help="Directory to write; the result of an earlier call there is replaced.")]
CampaignOption = Annotated[
    str | None,
    typer.Option(help="Campaign whose champion and start model the judges implicit_reward and self use."),
]
SplitOption = Annotated[str, typer.Option(help="Split to read, if the data is a `datasets` name.")]


def collect(
    responses: Annotated[
        str,
        typer.Argument(
            help="JSONL, CSV or Parquet file or `datasets` name with the columns prompt, and responses (a list) or "
            "response (one per row), and optionally system and tools."
        ),
    ],
    config: ConfigOption,
    out: OutOption,
    campaign: CampaignOption = None,
    split: SplitOption = "train",
) -> None:
    """Judge your own responses and build preference pairs.

    A line of the file: [bold]{"prompt": "Why is the sky blue?", "responses": ["Because ...", "I do not know."]}[/bold]

    Writes verdicts.parquet (every verdict), preferences.parquet (the pairs), collect.json (the counts) and
    preferences.jsonl. Other trainers read preferences.jsonl, and so does a campaign whose preferences.seed_pairs names
    it. If the judge fails half-way, run the same command again: it pays for no verdict twice.

    Example: [bold]ratchet collect answers.jsonl --config my-model.yaml --out judged[/bold]
    """
    with reporting_errors():
        settings = load_config(config)
        quiet_libraries()
        from components.preferences.standalone.responses_file import read_responses
        from components.preferences.standalone.steps import judge_and_pair
        from flows.terminal.preferences import print_collected

        system_prompt, carries = settings.policy.system_prompt, settings.reads_columns
        groups = read_responses(responses, split=split, system_prompt=system_prompt, carries_columns=carries)
        with _shown(out):
            judge_and_pair(groups, settings, _models(campaign), out.absolute())
        print_collected(console, out)


def pairs(
    verdicts: Annotated[
        Path, typer.Argument(help="Directory that `ratchet collect` wrote, or of a round, such as runs/demo/round-001.")
    ],
    config: ConfigOption,
    out: OutOption,
    builder: Annotated[
        str | None, typer.Option("--pairs", help="Builder of the pairs, instead of the file's preferences.pairs.")
    ] = None,
    min_margin: Annotated[
        float | None, typer.Option(help="Smallest margin of a pair, instead of the file's preferences.min_margin.")
    ] = None,
) -> None:
    """Build pairs again from verdicts on disk, by another builder or margin, without asking a judge.

    Example: [bold]ratchet pairs runs/demo/round-001 --config conf/demo.yaml --pairs all_pairs --min-margin 1 --out
        again[/bold]
    """
    chosen = {name: value for name, value in {"pairs": builder, "min_margin": min_margin}.items() if value is not None}
    with reporting_errors():
        settings = load_config(config, {"preferences": chosen})
        from components.preferences.standalone.kept import read_judged
        from components.preferences.standalone.steps import pair_again
        from flows.terminal.preferences import print_collected

        with _shown(out):
            pair_again(read_judged(verdicts), settings.preferences, seed=settings.seed, out=out.absolute())
        print_collected(console, out)


def calibrate(
    pairs: Annotated[
        str,
        typer.Argument(
            help="Labelled pairs in any published form, such as the columns prompt, chosen, rejected, and "
            "optionally p, margin, tag, system, tools."
        ),
    ],
    config: ConfigOption,
    out: OutOption,
    campaign: CampaignOption = None,
    split: SplitOption = "train",
) -> None:
    """Measure the configured judge against pairs whose better response is known.

    Shows how often the judge agrees with the labels, overall and by tag; whether it gives the same verdict in both
    orders; how often it ties or prefers the longer response; how often it is right at each level of confidence; and the
    preferences.soft_label_scale that turns its margins into calibrated probabilities.

    Example: [bold]ratchet calibrate labelled.jsonl --config my-model.yaml --out calibration[/bold]
    """
    with reporting_errors():
        settings = load_config(config)
        quiet_libraries()
        from components.data.preference_file import load_seed_pairs
        from components.preferences.standalone.steps import calibrate as measure
        from flows.terminal.preferences import print_calibration

        known = load_seed_pairs(pairs, split=split, carries_columns="python" in settings.judge.kinds)
        with _shown(out):
            measure(known, settings, _models(campaign), out.absolute())
        print_calibration(console, out)


def _models(campaign: str | None) -> "tuple[ModelRef, ModelRef] | None":
    """Return the campaign's champion and start model."""
    if campaign is None:
        return None
    directory = campaign_directory(campaign)
    return model_of_round(directory, known_state(campaign).champion.round), model_of_round(directory, 0)


@contextlib.contextmanager
def _shown(out: Path) -> Iterator[None]:
    """Show the progress of the step within the block, and log it beside the directory that the step writes."""
    from components.runtime import progress
    from components.runtime.stage_log import logged_to
    from flows.terminal.rounds import StageProgress

    log = out.absolute().with_name(f"{out.absolute().name}.log")
    with StageProgress(console) as bar, progress.reporting_to(bar), logged_to(log):
        yield
