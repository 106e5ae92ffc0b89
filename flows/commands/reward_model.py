"""`ratchet reward-model`: train a judge on preference pairs."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from components.config import RewardModelConfig
from flows.terminal.console import console, quiet_libraries, reporting_errors


def _default(name: str) -> str:
    # In brackets, rich would take it for markup and show nothing.
    return f"(default: {RewardModelConfig.model_fields[name].default})"


def reward_model(
    pairs: Annotated[
        str,
        typer.Argument(help="Preference pairs (JSONL, Parquet or `datasets` name), or the train.parquet of a round."),
    ],
    base: Annotated[str, typer.Option(help="Model to start from: a directory, a hub name, or `builtin`.")],
    out: Annotated[Path, typer.Option(help="Directory in which `reward_model/` is written.")],
    revision: Annotated[str, typer.Option(help="Hub revision of the base.")] = "main",
    split: Annotated[str, typer.Option(help="Split to read, if the pairs are a `datasets` name.")] = "train",
    epochs: Annotated[int | None, typer.Option(help=f"Passes over the pairs. {_default('epochs')}")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help=f"Peak learning rate of AdamW. {_default('learning_rate')}")
    ] = None,
    pairs_per_step: Annotated[
        int | None, typer.Option(help=f"Pairs per optimizer step. {_default('pairs_per_step')}")
    ] = None,
    micro_batch_pairs: Annotated[
        int | None, typer.Option(help=f"Pairs per forward pass on one rank. {_default('micro_batch_pairs')}")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help=f"Longest prompt plus response, in tokens. {_default('max_tokens')}")
    ] = None,
    eval_share: Annotated[
        float | None, typer.Option(help=f"Share of the prompts held out to measure it. {_default('eval_share')}")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help=f"auto, float32 or bfloat16. {_default('dtype')}")] = None,
    zero_stage: Annotated[int | None, typer.Option(help=f"DeepSpeed ZeRO stage. {_default('zero_stage')}")] = None,
    num_processes: Annotated[
        int | None, typer.Option(help="Training processes; one per visible GPU if left out.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help=f"Seed of the held-out prompts and of the order. {_default('seed')}")
    ] = None,
) -> None:
    """Train a reward model on preference pairs and measure it on held-out prompts.

    Prints its accuracy and calibration, and the section `judge` with which a campaign uses it. An interrupted training
    continues from its last checkpoint when the same command is run again.

    Example: [bold]ratchet reward-model pairs.jsonl --base ./my-instruct-model --out rewards[/bold]
    """
    options: dict[str, Any] = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "pairs_per_step": pairs_per_step,
        "micro_batch_pairs": micro_batch_pairs,
        "max_tokens": max_tokens,
        "eval_share": eval_share,
        "dtype": dtype,
        "zero_stage": zero_stage,
        "num_processes": num_processes,
        "seed": seed,
    }
    with reporting_errors():
        settings = _settings({name: value for name, value in options.items() if value is not None})
        quiet_libraries()
        from components.reward_model.preparing import check_place, prepare_request
        from components.runtime import progress
        from components.runtime.launch import run_stage
        from flows.terminal.reward_model import print_reward_model
        from flows.terminal.rounds import StageProgress

        check_place(out)
        request = prepare_request(pairs, split=split, base=base, revision=revision, settings=settings)
        with StageProgress(console) as bar, progress.reporting_to(bar):
            run_stage("reward_model", request, out, num_processes=settings.num_processes)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        print_reward_model(console, out / "reward_model")


def _settings(options: dict[str, Any]) -> RewardModelConfig:
    from pydantic import ValidationError

    from components.config import describe

    try:
        return RewardModelConfig(**options)
    except ValidationError as error:
        raise ValueError(describe(error)) from None
