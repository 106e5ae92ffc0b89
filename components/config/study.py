"""What `ratchet study` compares: arms of one base configuration, over seeds."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, field_validator, model_validator

from components.config.campaign import CampaignConfig
from components.config.loading import load_config, load_section, merged
from components.config.paths import with_absolute_paths
from components.config.section import Section

ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,23}")
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,23}")
"""Short, since a campaign's name is made of the study's, the arm's and the seed."""
OWNED = {"campaign": "the study's name and the arm's", "seed": "`seeds`", "num_rounds": "`rounds`"}
"""Keys of a campaign that a study sets, and from what."""
RULER = (
    "policy.model",
    "policy.revision",
    "policy.system_prompt",
    "policy.max_prompt_tokens",
    "policy.max_response_tokens",
    "sft",
    "prompts.held_out",
    "prompts.held_out_split",
    "prompts.held_out_revision",
    "prompts.column",
    "prompts.num_held_out",
    "generation.stop",
    "evaluation_judge",
    "evaluation",
    "gate.audit_share",
)
"""Keys of a campaign that must be equal if what two campaigns reached is to be compared: they start and are measured
alike."""


def _refuse_owned(change: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a change of a campaign's keys, unless it names one that the study sets."""
    for key in OWNED.keys() & change.keys():
        raise ValueError(f"{key} is set by {OWNED[key]}: leave it out")
    return change


Change = Annotated[dict[str, JsonValue], AfterValidator(_refuse_owned)]
"""Sparse sections of a campaign's file."""


class ArmConfig(Section):
    """One way to train, which a study compares with others."""

    method: Literal["rounds", "offline", "best_of_n"] = "rounds"
    """`rounds`: a campaign of the study's rounds; `offline`: one round with as many prompts as they have together, all
    answered by the start model; `best_of_n`: no training: the judge picks the best of `num_samples` answers of the
    start model."""
    change: Change = {}
    """What differs from the base configuration, as a campaign's file writes it, such as `{training: {loss: ipo}}`."""
    num_samples: int = Field(default=4, ge=2, le=1024)
    """Answers of which `best_of_n` picks one."""

    @property
    def settings(self) -> dict[str, JsonValue]:
        """What tells the arm from the base configuration, by dotted keys."""
        method = {} if self.method == "rounds" else {"method": self.method}
        number = {"num_samples": self.num_samples} if self.method == "best_of_n" else {}
        return {**method, **number, **flat(self.change)}

    @model_validator(mode="after")
    def _each_key_is_read(self) -> Self:
        default = ArmConfig.model_fields["num_samples"].default
        if self.method != "best_of_n" and self.num_samples != default:
            raise ValueError(f"num_samples has no effect with method {self.method}: leave it out")
        return self


class StudyConfig(Section):
    """A study: arms, each a change of one base configuration, each with several seeds."""

    PATHS: ClassVar[tuple[str, ...]] = ("base",)

    study: str
    """Name of the study: letters, digits, dash and underscore, at most 24. Its campaigns are called
    `STUDY.ARM.seed-N`."""
    base: str
    """YAML file of a campaign, which every arm changes."""
    change: Change = {}
    """What differs from the base configuration in every arm; an arm's own `change` wins."""
    arms: dict[str, ArmConfig] = Field(min_length=1)
    """The arms by their names. The first is the baseline that the others are compared with."""
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    """Seeds of the campaigns; every arm has all of them."""
    rounds: int = Field(default=3, ge=1, le=1000)
    """Rounds of an arm; the offline arms get all their prompts in one round."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Level of the intervals over seeds."""

    @property
    def baseline(self) -> str:
        """Name of the arm that the others are compared with."""
        return next(iter(self.arms))

    @field_validator("study")
    @classmethod
    def _names_a_directory(cls, name: str) -> str:
        if not STUDY_NAME.fullmatch(name):
            raise ValueError("is not a valid name: use 1 to 24 letters, digits, dashes or underscores")
        return name

    @field_validator("arms")
    @classmethod
    def _arms_name_campaigns(cls, arms: dict[str, ArmConfig]) -> dict[str, ArmConfig]:
        for name in arms:
            if not ARM_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a valid name: use 1 to 24 letters, digits, dashes or underscores")
        return arms

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is named twice: name each seed once")
        return seeds

    def campaign_name(self, arm: str, seed: int) -> str:
        """Return the name of the campaign of an arm and a seed."""
        return f"{self.study}.{arm}.seed-{seed}"

    def campaign(self, arm: str, seed: int) -> CampaignConfig:
        """Return the configuration of the campaign of an arm and a seed.

        Raises:
            ValueError: The base configuration cannot be read, or does not take the arm's change; one line that names
                the arm.
        """
        chosen = self.arms[arm]
        own = {"campaign": self.campaign_name(arm, seed), "seed": seed}
        change = merged(merged(self.change, chosen.change), own | {"num_rounds": self.rounds})
        try:
            config = load_config(Path(self.base), change)
            if chosen.method != "offline":
                return config
            per_round = {"prompts": {"per_round": config.prompts.per_round * self.rounds}}
            return load_config(Path(self.base), merged(change, per_round | {"num_rounds": 1}))
        except ValueError as error:
            raise ValueError(f"arm {arm}: {error}") from None


def flat(change: Mapping[str, Any], prefix: str = "") -> dict[str, JsonValue]:
    """Return sections within sections by dotted keys."""
    values: dict[str, JsonValue] = {}
    for key, value in change.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


def at(config: CampaignConfig, key: str) -> Any:
    """Return the value of a dotted key, as JSON has it; None below a section that is left out.

    Raises:
        ValueError: There is no such key.
    """
    value: Any = config.model_dump(mode="json")
    for name in key.split("."):
        if value is None:
            return None
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"there is no key {key} in the base configuration: give it a value there")
        value = value[name]
    return value


def refuse_other_ruler(base: CampaignConfig, other: CampaignConfig) -> None:
    """Check that two campaigns start and are measured alike.

    Raises:
        ValueError: They are not; names the first key.
    """
    for key in RULER:
        if at(base, key) != at(other, key):
            raise ValueError(
                f"{key} differs, so that what it reaches could not be compared: set it in the base configuration, "
                "for all alike"
            )


def load_study(path: Path, overrides: Mapping[str, Any] | None = None) -> StudyConfig:
    """Read the YAML file of a study, and check every arm.

    Args:
        path: YAML file whose keys are a subset of `StudyConfig`'s. Relative paths in it, those of the arms too, mean
            beside it.
        overrides: As of `load_config`.

    Raises:
        ValueError: As `load_config`; what is wrong with an arm names the arm.
    """
    config = load_section(path, StudyConfig, overrides)
    folder = path.absolute().parent
    arms = {
        name: arm.model_copy(update={"change": with_absolute_paths(arm.change, CampaignConfig, folder)})
        for name, arm in config.arms.items()
    }
    change = with_absolute_paths(config.change, CampaignConfig, folder)
    config = config.model_copy(update={"arms": arms, "change": change})
    baseline = config.campaign(config.baseline, config.seeds[0])
    for name in arms:
        try:
            refuse_other_ruler(baseline, config.campaign(name, config.seeds[0]))
        except ValueError as error:
            raise ValueError(str(error) if str(error).startswith("arm ") else f"arm {name}: {error}") from None
    return config
