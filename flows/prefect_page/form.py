"""The form of the Prefect page: a preset, and the few values that people change from start to start.

The page checks what JSON Schema can express; `chosen_config` checks the rest and reports an error in one line.
Prefect's form cannot leave a number empty, so a value that a setting cannot have stands for "as in the preset".
"""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from components.config import CampaignConfig, load_config
from components.config.shipped import conf_path


def _in_order(schema: dict[str, Any]) -> None:
    # The page sorts fields by name unless each has a position.
    for place, field in enumerate(schema["properties"].values()):
        field["position"] = place


class Group(BaseModel):
    """A group of the form's fields; the page shows them in the order of their definition."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, json_schema_extra=_in_order)


class What(Group):
    """Which campaign, and how far."""

    preset: Literal["demo", "qwen-ultrafeedback", "jury", "constitution", "smollm2", "people", "demonstrations"] = (
        "demo"
    )
    """Configuration to begin with. `demo` is the built-in campaign; `qwen-ultrafeedback` trains a model of half a
    billion parameters on hub data; `jury` and `constitution` do the same with judges that need a chat endpoint;
    `demonstrations` learns from eight shown answers."""
    config_file: str = ""
    """YAML file on the worker's machine, in place of the preset; empty takes the preset."""
    campaign: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")
    """Name of the campaign to continue or to begin; empty takes the preset's."""
    num_rounds: int = Field(default=0, ge=0, le=1000)
    """Rounds to add; 0 takes the preset's number. If an earlier start was interrupted, this one finishes it and adds
    no further rounds."""
    until: int = Field(default=0, ge=0, le=10000)
    """Last round that the campaign shall have, in place of `num_rounds`: a start that finds it does nothing. 0 adds
    `num_rounds`."""
    accept_changes: bool = False
    """Continue although the configuration or the inputs differ from those that the campaign began with."""
    accept_audit: bool = False
    """Continue although an audit contradicts the campaign's promotions."""


class Model(Group):
    """The model that is being aligned."""

    model: str = ""
    """Local directory or hub name of the start model; empty takes the preset's."""
    lora_rank: int = Field(default=-1, ge=-1, le=1024)
    """Rank of the low-rank adapter; 0 trains all weights, -1 takes the preset's."""


class Data(Group):
    """Prompts and pairs."""

    train_prompts: str = ""
    """File or `datasets` name of the training prompts; empty takes the preset's."""
    held_out_prompts: str = ""
    """File or `datasets` name of the held-out prompts; empty takes the preset's."""
    prompts_per_round: int = Field(default=0, ge=0)
    """Prompts drawn per round; 0 takes the preset's number."""
    seed_pairs: str = ""
    """File or `datasets` name of preference pairs that are round 1's data; empty takes the preset's."""


class Judge(Group):
    """Who decides which response is better."""

    kind: Literal["preset", "rule", "reward_model", "llm", "constitution", "debate"] = "preset"
    """`rule`: an allow-listed Python function; `reward_model`: a sequence-classification model; `llm`, `constitution`,
    `debate`: a chat model at an endpoint; `preset`: as in the preset. For a jury, name your own file above."""
    model: str = ""
    """Local directory or hub name of the reward model; empty takes the preset's."""
    endpoint_url: str = ""
    """Base URL of the chat model's endpoint, such as http://127.0.0.1:8000/v1; empty takes the preset's."""
    endpoint_model: str = ""
    """Name of the chat model at that endpoint; empty takes the preset's."""
    api_key_from: str = Field(default="", pattern=r"^(env:.+|prefect:.+)?$")
    """Where the endpoint's key is stored, never the key itself: `prefect:` and the name of a Secret block, or `env:`
    and the name of a variable in the worker's environment."""


class Training(Group):
    """Direct Preference Optimization."""

    learning_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Peak learning rate of AdamW; 0 takes the preset's."""
    beta: float = Field(default=0.0, ge=0.0)
    """Strength of the pull towards the reference; a larger value keeps the policy closer. 0 takes the preset's."""
    epochs: int = Field(default=0, ge=0)
    """Passes over the pairs of a round; 0 takes the preset's number."""
    micro_batch_pairs: int = Field(default=0, ge=0)
    """Pairs in one forward and backward pass on one rank; lower it if memory runs out. 0 takes the preset's number."""


class Budget(Group):
    """Limits of a round. A round that reaches one stops; the campaign's next start continues it."""

    max_round_minutes: float = Field(default=-1.0, ge=-1.0)
    """Minutes that a round may take; 0 sets no limit, -1 takes the preset's."""
    max_round_cost: float = Field(default=-1.0, ge=-1.0)
    """Cost that a round may reach, in the currency of `cost_per_hour`; 0 sets no limit, -1 takes the preset's."""


class Form(Group):
    """The whole form."""

    what: What = What()
    model: Model = Model()
    data: Data = Data()
    judge: Judge = Judge()
    training: Training = Training()
    budget: Budget = Budget()
    other: list[str] = []
    """Any further values, each as `section.key=value`."""


def preset_path(name: str) -> Path:
    """Return the path of a preset's shipped YAML file."""
    return conf_path(f"{name}.yaml")


def chosen_config(form: Form) -> CampaignConfig:
    """Return the configuration that a filled form stands for.

    Raises:
        ValueError: A value cannot be used; the message is one line that names the value and the remedy.
    """
    changes: dict[str, Any] = {}
    for key, value, unset in (
        ("campaign", form.what.campaign, ""),
        ("num_rounds", form.what.num_rounds, 0),
        ("policy.model", form.model.model, ""),
        ("lora.rank", form.model.lora_rank, -1),
        ("prompts.train", form.data.train_prompts, ""),
        ("prompts.held_out", form.data.held_out_prompts, ""),
        ("prompts.per_round", form.data.prompts_per_round, 0),
        ("preferences.seed_pairs", form.data.seed_pairs, ""),
        ("judge.kind", form.judge.kind, "preset"),
        ("judge.model", form.judge.model, ""),
        ("judge.endpoint.url", form.judge.endpoint_url, ""),
        ("judge.endpoint.model", form.judge.endpoint_model, ""),
        ("judge.endpoint.api_key_from", form.judge.api_key_from, ""),
        ("training.learning_rate", form.training.learning_rate, 0.0),
        ("training.beta", form.training.beta, 0.0),
        ("training.epochs", form.training.epochs, 0),
        ("training.micro_batch_pairs", form.training.micro_batch_pairs, 0),
        ("budget.max_round_minutes", form.budget.max_round_minutes, -1.0),
        ("budget.max_round_cost", form.budget.max_round_cost, -1.0),
    ):
        if value != unset:
            _put(changes, key, value)
    for line in form.other:
        key, sign, text = line.partition("=")
        if not sign or not key.strip():
            raise ValueError(
                f"other value {line!r} is not a setting: write it as section.key=value, such as training.epochs=2"
            )
        _put(changes, key.strip(), _value(line, text))
    return load_config(
        Path(form.what.config_file).expanduser() if form.what.config_file else preset_path(form.what.preset), changes
    )


def _value(line: str, text: str) -> Any:
    try:
        return yaml.safe_load(text) if text.strip() else ""
    except yaml.YAMLError:
        raise ValueError(
            f"other value {line!r} is not valid: its right side must be a YAML value, such as 2, true or a name"
        ) from None


def _put(changes: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        changes = changes.setdefault(section, {})
        if not isinstance(changes, dict):
            raise ValueError(f"other value {key}: {section} is a value, not a section, so it has no keys of its own")
    changes[name] = value
