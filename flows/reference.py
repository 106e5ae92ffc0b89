"""Write the configuration reference, docs/configuration.md, from the docstrings of `components.config`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from components.config import (
    ArmConfig,
    CampaignConfig,
    Limit,
    ParameterConfig,
    RewardModelConfig,
    SftConfig,
    StudyConfig,
    SweepConfig,
)

INTRODUCTION = """\
# Configuration

This page lists every key of a campaign's YAML file. `make reference` writes it from the docstrings in
`components/config`, and a test compares the two, so edit those docstrings and not this page. `ratchet reference` prints
the same tables.

A file names only what differs from the defaults. Only `campaign` is required:

```yaml
campaign: my-model
policy: {model: ./my-instruct-model}
prompts: {train: ./prompts.jsonl, held_out: ""}
judge: {kind: reward_model, model: ./my-reward-model}
```

An unknown key is an error that names the nearest known key. The resolved configuration is kept as JSON with the
campaign and in MLflow. A campaign refuses to continue with a different configuration unless you pass
`--accept-changes`. `num_rounds`, `budget`, `tracking`, `launcher`, `generation.nodes`, `evaluation.nodes`,
`evaluation.start_prompts`, `retention_days` and `consent` of `preferences.feedback`, and the address, key, limits and
prices of a judge's `endpoint` can change freely.

A relative path in the file means beside the file, wherever the command or the worker runs; one in `--set` means in the
current directory. A name without `./` that exists beside the file is a path, and else a name of the hub.
"""
REWARD_MODEL = """\
How `ratchet reward-model` trains on preference pairs (Ouyang et al. 2022, arXiv 2203.02155). These keys are not part of
a campaign's file: they stand in a file of their own, which `--config` names."""

STUDY = """\
What `ratchet study` compares: arms, each a change of one base configuration, each with several seeds
([studies](studies.md)). A study has a file of its own."""
ARM = """\
One way to train, in `arms` under its name. `change` has the keys of a campaign's file."""

SWEEP = """\
What `ratchet sweep` searches: ranges of a campaign's keys ([sweeps](studies.md#sweeps)). A sweep has a file of its
own."""
PARAMETER = """\
What a sweep tries of one key, in `parameters` under the key's name with dots, such as `training.beta`."""

SFT = """\
How `ratchet sft` trains on demonstrations (Ouyang et al. 2022, arXiv 2203.02155). These keys are not part of a
campaign's file: they stand in a file of their own, which `--config` names. `lora` has the keys of a campaign's `lora`,
such as `{rank: 16}`."""


def configuration_page() -> str:
    """Return the whole text of docs/configuration.md."""
    return f"{INTRODUCTION}\n{config_reference()}"


def config_reference() -> str:
    """Return every section of the configuration as a Markdown table of key, type and range, default, and meaning."""
    top = {name: field for name, field in CampaignConfig.model_fields.items() if not _is_section(field)}
    sections = {name: field for name, field in CampaignConfig.model_fields.items() if _is_section(field)}
    described: dict[type[BaseModel], str] = {}
    tables = [table for name, field in sections.items() for table in _tables(name, field, described)]
    about = "A campaign: a named, long-lived sequence of rounds on one policy."
    reward_model = _table("A reward model", REWARD_MODEL, dict(RewardModelConfig.model_fields))
    sft = {name: field for name, field in SftConfig.model_fields.items() if not _is_section(field)}
    return "\n".join(
        [
            _table("Top level", about, top),
            *tables,
            reward_model,
            _table("Supervised fine-tuning", SFT, sft),
            _table("A study", STUDY, dict(StudyConfig.model_fields)),
            _table("An arm of a study", ARM, dict(ArmConfig.model_fields)),
            _table("A sweep", SWEEP, dict(SweepConfig.model_fields)),
            _table("A parameter of a sweep", PARAMETER, dict(ParameterConfig.model_fields)),
        ]
    )


def _tables(name: str, field: FieldInfo, described: dict[type[BaseModel], str]) -> Iterator[str]:
    """Yield the table of a section and of each section in it; one that is already in `described` is only named."""
    section = cast(type[BaseModel], field.annotation)
    if section in described:
        yield f"## `{name}`\n\n{_meaning(field)} Same keys as `{described[section]}`.\n"
        return
    described[section] = name
    # The kind says which of the others are read.
    keys = sorted(section.model_fields, key=lambda key: key != "kind")
    own = {key: section.model_fields[key] for key in keys if not _is_section(section.model_fields[key])}
    yield _table(f"`{name}`", " ".join((section.__doc__ or "").split()), own)
    for key, inner in section.model_fields.items():
        if _is_section(inner):
            yield from _tables(f"{name}.{key}", inner, described)


def _table(title: str, about: str, fields: dict[str, FieldInfo]) -> str:
    rows = [f"| `{name}` | {_type(field)} | {_default(field)} | {_meaning(field)} |" for name, field in fields.items()]
    head = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {title}\n", f"{about}\n", *head, *rows]) + "\n"


def _is_section(field: FieldInfo) -> bool:
    is_section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    # A limit is a value of three keys, whose defaults are those of its check.
    return is_section and field.annotation is not Limit


def _type(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    symbols = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
    limits = [(sign, getattr(rule, name)) for rule in field.metadata for name, sign in symbols if hasattr(rule, name)]
    bounds = ", ".join(f"{sign} {_number(limit)}" for sign, limit in limits)
    name = getattr(field.annotation, "__name__", None) or str(field.annotation).replace(" | None", " or null")
    return f"{name} {bounds}".strip()


def _number(limit: float) -> str:
    return f"{limit:g}" if limit < 1e6 else str(limit)


def _meaning(field: FieldInfo) -> str:
    # A row of a table is one line.
    return " ".join((field.description or "").split())


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "by the other keys"
    default = field.default.model_dump() if isinstance(field.default, Limit) else field.default
    return "required" if field.is_required() else f"`{json.dumps(default)}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(configuration_page(), encoding="utf-8")
