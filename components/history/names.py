"""How people name a round (`demo/1`) and a model version (`demo/3`, `demo@champion`). Knows no files."""

import re
from dataclasses import dataclass

_ROUND = re.compile(r"(?P<campaign>[^/@]+)/(?P<round>\d+)")
_VERSION = re.compile(r"(models:/)?(?P<model>[^/@]+)(/(?P<version>\d+)|@(?P<alias>[^/@]+))")


@dataclass(frozen=True)
class RoundName:
    """A round of a campaign."""

    campaign: str
    round: int

    def __str__(self) -> str:
        return f"{self.campaign}/{self.round}"


@dataclass(frozen=True)
class VersionName:
    """A version of a registered model, by its number or by an alias; the other is None."""

    model: str
    version: int | None
    alias: str | None

    def __str__(self) -> str:
        return f"{self.model}@{self.alias}" if self.alias else f"{self.model}/{self.version}"


def parse_round(text: str) -> RoundName:
    """Reads `demo/1`.

    Raises:
        ValueError: It is written otherwise.
    """
    found = _ROUND.fullmatch(text)
    if found is None:
        raise ValueError(f"{text} names no round: write campaign/round, such as demo/1")
    return RoundName(found["campaign"], int(found["round"]))


def parse_version(text: str) -> VersionName:
    """Reads MLflow's notation for a version: `demo/3`, `demo@champion`, either with `models:/` before it.

    Raises:
        ValueError: It is written otherwise.
    """
    found = _VERSION.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text} names no model version: write model/version or model@alias, such as demo/3 or demo@champion"
        )
    return VersionName(found["model"], int(found["version"]) if found["version"] else None, found["alias"])
