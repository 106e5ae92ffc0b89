"""Parse the names of a round (`demo/1`) and of a model version (`demo/3`, `demo@champion`). Knows no files."""

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
    """A version of a registered model: either its number or an alias is set, the other is None."""

    model: str
    version: int | None
    alias: str | None

    def __str__(self) -> str:
        return f"{self.model}@{self.alias}" if self.alias else f"{self.model}/{self.version}"


def parse_round(text: str) -> RoundName:
    """Parse the name of a round, such as `demo/1`.

    Raises:
        ValueError: The text is not a round's name.
    """
    match = _ROUND.fullmatch(text)
    if match is None:
        raise ValueError(f"{text} is not a round: use campaign/round, such as demo/1")
    return RoundName(match["campaign"], int(match["round"]))


def parse_version(text: str) -> VersionName:
    """Parse MLflow's notation for a version: `demo/3` or `demo@champion`, optionally with the prefix `models:/`.

    Raises:
        ValueError: The text is not a version's name.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text} is not a model version: use model/version or model@alias, such as demo/3 or demo@champion"
        )
    return VersionName(match["model"], int(match["version"]) if match["version"] else None, match["alias"])
