"""Commands for the steps of preference collection alone: collect, pairs, calibrate."""

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
    typer.Option(help="YAML file of a campaign; its sections judge, preferences and (to collect) active are used."),
]
OutOption = Annotated[
    Path, typer.Option(help="Directory that is written; what an earlier call wrote there is replaced.")
]
CampaignOption = Annotated[
    str | None,
    typer.Option(help="Campaign whose champion and start model are read, for the judges implicit_reward and self."),
]
SplitOption = Annotated[str, typer.Option(help="Split that is read of a `datasets` name.")]


def collect(
    responses: Annotated[
        str,
        typer.Argument(
            help="JSONL, Parquet or `datasets` name: prompt, and responses (a list) or response (one a row)."
        ),
    ],
    config: ConfigOption,
    out: OutOption,
    campaign: CampaignOption = None,
    split: SplitOption = "train",
) -> None:
    """Have your own responses judged, and build preference pairs.

    A line of the file: [bold]{"prompt": "Why is the sky blue?", "responses": ["Because ...", "I do not know."]}[/bold]

    Writes verdicts.parquet (all that the judge said), preferences.parquet, collect.json (what became of every prompt),
    and preferences.jsonl, which trains elsewhere and is a campaign's first round with preferences.seed_pairs. When the
    judge fails half-way, the same command goes on, and pays for nothing twice.

    Example: [bold]ratchet collect answers.jsonl --config my-model.yaml --out judged[/bold]
    """
    with reporting_errors():
        settings = load_config(config)
        quiet_libraries()
        from components.preferences.standalone.responses_file import read_responses
        from components.preferences.standalone.steps import judge_and_pair
        from flows.terminal.preferences import print_collected

        groups = read_responses(responses, split=split)
        with _shown():
            judge_and_pair(groups, settings, _models(campaign), out.absolute())
        print_collected(console, out)


def pairs(
    verdicts: Annotated[
        Path, typer.Argument(help="Directory that `ratchet collect` wrote, or a round's, such as runs/demo/round-001.")
    ],
    config: ConfigOption,
    out: OutOption,
    builder: Annotated[
        str | None, typer.Option("--pairs", help="Builder, in place of the file's preferences.pairs.")
    ] = None,
    min_margin: Annotated[
        float | None, typer.Option(help="Margin, in place of the file's preferences.min_margin.")
    ] = None,
) -> None:
    """Build pairs again from verdicts that were kept, by another builder or margin; no judge is asked.

    Example: [bold]ratchet pairs runs/demo/round-001 --config conf/demo.yaml --pairs all_pairs --min-margin 1 --out
        again[/bold]
    """
    chosen = {name: value for name, value in {"pairs": builder, "min_margin": min_margin}.items() if value is not None}
    with reporting_errors():
        settings = load_config(config, {"preferences": chosen})
        from components.preferences.standalone.kept import read_judged
        from components.preferences.standalone.steps import pair_again
        from flows.terminal.preferences import print_collected

        with _shown():
            pair_again(read_judged(verdicts), settings.preferences, seed=settings.seed, out=out.absolute())
        print_collected(console, out)


def calibrate(
    pairs: Annotated[
        str,
        typer.Argument(help="Preference file with known labels: prompt, chosen, rejected, and perhaps p, margin, tag."),
    ],
    config: ConfigOption,
    out: OutOption,
    campaign: CampaignOption = None,
    split: SplitOption = "train",
) -> None:
    """Measure the configured judge against pairs whose better answer is known.

    Shows how often it agrees, by tag too; whether it says the same in both orders; its ties and its taste for length;
    how often it is right when it is sure; and the preferences.soft_label_scale that turns its margins into
    probabilities that can be believed.

    Example: [bold]ratchet calibrate labelled.jsonl --config my-model.yaml --out calibration[/bold]
    """
    with reporting_errors():
        settings = load_config(config)
        quiet_libraries()
        from components.data.preference_file import load_seed_pairs
        from components.preferences.standalone.steps import calibrate as measure
        from flows.terminal.preferences import print_calibration

        known = load_seed_pairs(pairs, split=split)
        with _shown():
            measure(known, settings, _models(campaign), out.absolute())
        print_calibration(console, out)


def _models(campaign: str | None) -> "tuple[ModelRef, ModelRef] | None":
    """The champion and the start model."""
    if campaign is None:
        return None
    directory = campaign_directory(campaign)
    return model_of_round(directory, known_state(campaign).champion.round), model_of_round(directory, 0)


@contextlib.contextmanager
def _shown() -> Iterator[None]:
    """Shows how far the step is."""
    from components.runtime import progress
    from flows.terminal.rounds import StageProgress

    with StageProgress(console) as shown, progress.reporting_to(shown):
        yield
