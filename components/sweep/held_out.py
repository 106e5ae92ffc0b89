"""Split a campaign's held-out prompts: one half for the trials of a sweep, one that only its winner is measured on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.artifacts import write_bytes
from components.config import BUILTIN, CampaignConfig
from components.data.prompts import Prompt, split_prompts

SEARCH, CONFIRM, TRAIN = "search.jsonl", "confirm.jsonl", "train.jsonl"


def halve_held_out(directory: Path, config: CampaignConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write both halves into a directory, unless they are there.

    Prompts alternate in the order of their ids, which are hashes of their content, so that a half is the same whatever
    the order of the file, and every kind of prompt is in both.

    Args:
        directory: Where the files lie.
        config: The campaign's configuration.

    Returns:
        Keys of the section `prompts` for the search, and for the confirmation.

    Raises:
        ValueError: The prompts cannot be read, or there are fewer than two held-out ones.
    """
    paths = {name: directory / name for name in (SEARCH, CONFIRM, TRAIN)}
    split = split_prompts(config.prompts, carries_columns=config.reads_columns)
    held_out = sorted(split.held_out, key=lambda prompt: prompt.prompt_id)
    if len(held_out) < 2:
        raise ValueError(
            f"prompts.held_out has {len(held_out)} prompt: a sweep needs two halves, so hold out more (num_held_out)"
        )
    # Neither half may be trained on, also if they come out of the training prompts.
    sides = {SEARCH: held_out[::2], CONFIRM: held_out[1::2], TRAIN: split.train}
    builtin = config.prompts.train == BUILTIN
    for name, prompts in sides.items():
        if not paths[name].exists() and not (builtin and name == TRAIN):
            directory.mkdir(parents=True, exist_ok=True)
            write_bytes(paths[name], _lines(prompts, config.prompts.column))
    train = {} if builtin else {"train": str(paths[TRAIN])}
    return train | {"held_out": str(paths[SEARCH])}, train | {"held_out": str(paths[CONFIRM])}


def _lines(prompts: Sequence[Prompt], column: str) -> bytes:
    rows = [{**prompt.columns, column: prompt.messages} for prompt in prompts]
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
