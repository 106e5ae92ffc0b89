"""What `ratchet sweep` searches: ranges of a campaign's keys."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from components.config.campaign import CampaignConfig
from components.config.loading import load_config, load_section, nested
from components.config.section import Section
from components.config.study import StudyConfig, at, refuse_other_ruler

SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,15}")
OWNED_BY_A_SWEEP = ("campaign", "seed", "num_rounds", "prompts.train", "prompts.held_out", "prompts.num_held_out")
"""Keys of a campaign that a sweep sets itself."""
DEFAULT, WINNER = "default", "winner"
"""The arms of the study that confirms a winner."""


class ParameterConfig(Section):
    """Values of a key that a sweep tries: a range, or choices."""

    low: float | None = None
    """Least value of a range; with whole numbers at both ends, whole numbers are tried."""
    high: float | None = None
    """Largest value of a range."""
    log: bool = False
    """Tries the range evenly by factors, as rates and beta deserve, and not by differences."""
    choices: tuple[str | int | float | bool, ...] = ()
    """The values, in place of a range."""

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers of the range are tried."""
        return self.low is not None and self.high is not None and self.low.is_integer() and self.high.is_integer()

    @property
    def ends(self) -> tuple[JsonValue, ...]:
        """Values that the key must take if the search is to work."""
        if self.choices:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        return (int(self.low), int(self.high)) if self.is_whole else (self.low, self.high)

    def can_draw(self, value: Any) -> bool:
        """Return whether a value is one of those that are tried."""
        if self.choices:
            return value in self.choices
        if isinstance(value, bool | str) or value is None or self.low is None or self.high is None:
            return False
        return bool(self.low <= value <= self.high and not (self.is_whole and value != int(value)))

    @model_validator(mode="after")
    def _is_a_range_or_choices(self) -> Self:
        if self.choices:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("has choices and a range: leave one of them out")
            if len(self.choices) < 2:
                raise ValueError("has one choice: name at least two, or put the value into the base configuration")
        elif self.low is None or self.high is None:
            raise ValueError("has neither a range nor choices: set `low` and `high`, or `choices`")
        elif self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high is {self.high:g}: low must be below high")
        elif self.log and self.low <= 0:
            raise ValueError(
                f"low is {self.low:g}, and a range by factors begins above 0: leave `log` out, or raise it"
            )
        return self


class SweepConfig(Section):
    """A sweep: a search for the values of a few keys, and a test of the winner on prompts that it never saw."""

    PATHS: ClassVar[tuple[str, ...]] = ("base",)

    sweep: str
    """Name of the sweep: letters, digits, dash and underscore, at most 16. Its campaigns are called `SWEEP.trial-N`."""
    base: str
    """YAML file of a campaign, whose values are the first trial and what the winner must beat."""
    parameters: dict[str, ParameterConfig] = Field(min_length=1)
    """What is tried, by a key of the campaign's file with dots between sections, such as `training.beta`."""
    trials: int = Field(default=20, ge=2, le=10000)
    """Campaigns that the search runs, the base configuration's among them."""
    rounds: int = Field(default=2, ge=1, le=1000)
    """Rounds of a trial. After each but the last, a trial ends whose best so far is below the median of what the trials
    with all their rounds had reached there, once some (a third, between two and ten) have all of them."""
    seed: int = Field(default=1, ge=0, lt=2**31)
    """Seed of the search and of its campaigns."""
    objective: Literal["win_rate", "reward"] = "win_rate"
    """What is searched for, of a trial's champion: the win rate against the start, or the mean judge score."""
    confirm_seeds: tuple[int, ...] = Field(default=(1001, 1002, 1003), min_length=1)
    """Seeds with which the winner and the base configuration are trained again and compared, on the half of the
    held-out prompts that no trial saw."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Level of that comparison's intervals."""

    @field_validator("sweep")
    @classmethod
    def _names_a_directory(cls, name: str) -> str:
        if not SWEEP_NAME.fullmatch(name):
            raise ValueError("is not a valid name: use 1 to 16 letters, digits, dashes or underscores")
        return name

    @field_validator("parameters")
    @classmethod
    def _leaves_the_sweeps_own_keys(cls, parameters: dict[str, ParameterConfig]) -> dict[str, ParameterConfig]:
        for key in OWNED_BY_A_SWEEP:
            if key in parameters:
                raise ValueError(f"{key} is set by the sweep itself: leave it out")
        return parameters

    @model_validator(mode="after")
    def _confirms_with_other_seeds(self) -> Self:
        if self.seed in self.confirm_seeds:
            raise ValueError(f"confirm_seeds has the seed of the search, {self.seed}: confirm with others")
        return self

    def trial(self, number: int, values: Mapping[str, JsonValue], prompts: Mapping[str, Any]) -> CampaignConfig:
        """Return the campaign of a trial.

        Args:
            number: The trial, from 0.
            values: Values of the parameters.
            prompts: Keys of the section `prompts` that name the search's half of the held-out prompts.

        Raises:
            ValueError: The base configuration cannot be read, or does not take the values.
        """
        own = {"campaign": f"{self.sweep}.trial-{number:03d}", "seed": self.seed, "num_rounds": self.rounds}
        return load_config(Path(self.base), nested({**values, **_prompts(prompts), **own}))

    def confirmation(self, values: Mapping[str, JsonValue], prompts: Mapping[str, Any]) -> StudyConfig:
        """Return the study that compares the winner with the base configuration; arguments as of `trial`."""
        changes = {DEFAULT: {}, WINNER: dict(values)}
        return StudyConfig.model_validate(
            {
                "study": f"{self.sweep}-confirm",
                "base": self.base,
                "rounds": self.rounds,
                "seeds": self.confirm_seeds,
                "confidence": self.confidence,
                "arms": {name: {"change": nested({**change, **_prompts(prompts)})} for name, change in changes.items()},
            }
        )


def _prompts(prompts: Mapping[str, Any]) -> dict[str, Any]:
    return {f"prompts.{key}": value for key, value in prompts.items()}


def load_sweep(path: Path, overrides: Mapping[str, Any] | None = None) -> SweepConfig:
    """Read the YAML file of a sweep, and check that the base configuration takes both ends of every range.

    Args:
        path: YAML file whose keys are a subset of `SweepConfig`'s. Relative paths in it mean beside it.
        overrides: As of `load_config`.

    Raises:
        ValueError: As `load_config`; what is wrong with a parameter names it.
    """
    config = load_section(path, SweepConfig, overrides)
    base = config.trial(0, {}, {})
    for key, parameter in config.parameters.items():
        try:
            for value in parameter.ends:
                refuse_other_ruler(base, config.trial(0, {key: value}, {}))
            if not parameter.can_draw(at(base, key)):
                raise ValueError(
                    f"the base configuration has {at(base, key)}, which would never be tried: widen the range, or add "
                    "it to the choices"
                )
        except ValueError as error:
            raise ValueError(f"parameters.{key}: {error}") from None
    return config
