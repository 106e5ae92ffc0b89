"""A campaign's state on disk: its rounds, its champion, its target, its lock. Computes nothing and loads no ML library."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.artifacts import read_json, write_json
from components.config import CampaignConfig, differences
from components.records import ModelRef, Record, RoundRecord

RUNS_VARIABLE = "RATCHET_RUNS"
CONFIG = "config.json"


class CampaignBusy(Exception):
    """Another flow run works on the campaign; the message names it."""


class Champion(Record):
    """The best model that was promoted so far; round 0 is the start model."""

    round: int
    digest: str


class State(Record):
    """What campaign.json holds."""

    campaign: str
    champion: Champion
    target: int | None = None
    """The round that an unfinished start goes to; None when nothing is open."""
    rounds: tuple[RoundRecord, ...] = ()

    @property
    def last_round(self) -> int:
        """The last finished round; 0 before the first."""
        return self.rounds[-1].round if self.rounds else 0


def runs_directory() -> Path:
    """Where campaigns lie: the environment's RATCHET_RUNS, else `runs` below the current directory."""
    return Path(os.environ.get(RUNS_VARIABLE, "runs")).absolute()


def campaign_directory(campaign: str) -> Path:
    """The directory of a campaign, whether it exists or not."""
    return runs_directory() / campaign


def round_directory(directory: Path, round: int) -> Path:
    """The directory of a round's stages."""
    return directory / f"round-{round:03d}"


def read_state(directory: Path) -> State | None:
    """Reads campaign.json; None before the first start has pinned the start model.

    Raises:
        ValueError: The file is damaged.
    """
    path = directory / "campaign.json"
    if not path.exists():
        return None
    try:
        return State.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({str(error).splitlines()[0]}): restore it, or move the campaign's directory away") from None


def known_state(campaign: str) -> State:
    """Reads the state of a campaign that must exist.

    Raises:
        ValueError: There is no such campaign; the message names those that there are.
    """
    state = read_state(campaign_directory(campaign))
    if state is None:
        known = sorted(path.parent.name for path in runs_directory().glob("*/campaign.json"))
        raise ValueError(
            f"no campaign {campaign} under {runs_directory()}: {'known: ' + ', '.join(known) if known else 'none has run yet'}"
        )
    return state


def write_state(directory: Path, state: State) -> None:
    """Replaces campaign.json atomically."""
    write_json(directory / "campaign.json", state)


def refuse_changes(directory: Path, config: CampaignConfig) -> None:
    """Compares a configuration with the one the campaign began with. `num_rounds` may differ between starts.

    Raises:
        ValueError: They differ; the message says where and how to go on.
    """
    changed = _changes(directory, config)
    if changed:
        raise ValueError(
            f"campaign {config.campaign} began with another config ({'; '.join(changed)}): change it back, choose another campaign name, "
            "or pass --accept-changes to go on with the new one"
        )


def pin_config(directory: Path, config: CampaignConfig, *, accept_changes: bool) -> None:
    """Writes the resolved configuration the first time, and again when a change of it is accepted.

    Raises:
        ValueError: It changed, and `accept_changes` is false.
    """
    if not accept_changes:
        refuse_changes(directory, config)
    if _changes(directory, config) or not (directory / CONFIG).exists():
        write_json(directory / CONFIG, config.model_dump(mode="json"))


def _changes(directory: Path, config: CampaignConfig) -> list[str]:
    if not (directory / CONFIG).exists():
        return []
    return differences(read_json(directory / CONFIG) | {"num_rounds": config.num_rounds}, config.model_dump(mode="json"))


def open_target(state: State, num_rounds: int) -> int:
    """The round a start goes to: the open target of a start that did not finish, else `num_rounds` beyond the last round."""
    return state.last_round + num_rounds if state.target is None else state.target


def finish_round(directory: Path, record: RoundRecord) -> State:
    """Adds a finished round to campaign.json, and moves the champion if it was promoted. Adding it again changes nothing."""
    state = read_state(directory)
    assert state is not None
    rounds = (*(known for known in state.rounds if known.round != record.round), record)
    promoted = record.promoted and record.round >= state.champion.round
    champion = Champion(round=record.round, digest=record.policy_digest) if promoted else state.champion
    state = state.model_copy(update={"rounds": tuple(sorted(rounds, key=lambda known: known.round)), "champion": champion})
    write_state(directory, state)
    return state


def model_of_round(directory: Path, round: int) -> ModelRef:
    """Names the model that a round trained; round 0 is the start model."""
    pinned = round_directory(directory, 0) / "start"
    start = ModelRef.model_validate(read_json(pinned / "start.json")["model"])
    if not Path(start.base).is_absolute():
        start = start.model_copy(update={"base": str(pinned / start.base)})
    if round == 0:
        return start
    stage = round_directory(directory, round) / "dpo_train"
    trained = read_json(stage / "train.json")
    digest, weights = trained["policy_digest"], stage / trained["directory"]
    if weights.name == "adapter":
        return start.model_copy(update={"round": round, "adapter": weights, "digest": digest})
    return ModelRef(round=round, base=str(weights), base_digest=digest, digest=digest)


@contextlib.contextmanager
def locked(directory: Path, **holder: Any) -> Iterator[None]:
    """Holds the campaign's lock; the kernel lets go of it when the process ends, however it ends.

    Raises:
        CampaignBusy: Somebody else holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CampaignBusy(f"campaign {directory.name} is worked on by {_describe_holder(file.read())}") from None
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since, **holder}))
        file.flush()
        yield


def _describe_holder(content: str) -> str:
    try:
        return ", ".join(f"{name} {value}" for name, value in json.loads(content).items())
    except ValueError:
        return "another process that is just starting"
