"""A campaign's state on disk: its rounds, its champion and its target.

Computes nothing and loads no ML library. Who the champion is stands in campaign.json and nowhere else; all other places
follow it.
"""

import os
from pathlib import Path

from pydantic import ConfigDict, Field

from components.artifacts import write_json
from components.records import Record, RoundRecord

RUNS_VARIABLE = "RATCHET_RUNS"


class Champion(Record):
    """The best model that was promoted so far; round 0 is the start model."""

    round: int
    digest: str


class Rollback(Record):
    """People made an earlier champion the champion again."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    former: int = Field(alias="from")
    """Round of the champion that was put aside."""
    to: int
    """Round that is the champion again; 0 is the start model."""
    at: str
    """UTC time, ISO 8601."""
    after_round: int
    """The last round that was finished then: the next one is the first to start from the restored champion."""


class State(Record):
    """What campaign.json holds."""

    campaign: str
    champion: Champion
    target: int | None = None
    """The round that an unfinished start goes to; None when nothing is open."""
    rounds: tuple[RoundRecord, ...] = ()
    rollbacks: tuple[Rollback, ...] = ()
    """Oldest first."""

    @property
    def last_round(self) -> int:
        """The last finished round; 0 before the first."""
        return self.rounds[-1].round if self.rounds else 0

    def champion_before(self, round: int) -> int:
        """The round whose model a round started from and was compared with; 0 is the start model."""
        moves = [(record.round, 0, record.round) for record in self.rounds if record.promoted]
        moves += [(rollback.after_round, order, rollback.to) for order, rollback in enumerate(self.rollbacks, 1)]
        return max((move for move in moves if move[0] < round), default=(0, 0, 0))[2]


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
        raise ValueError(
            f"{path} is damaged ({str(error).splitlines()[0]}): restore it, or move the campaign's directory away"
        ) from None


def known_campaigns() -> list[str]:
    """Names of all campaigns that have begun, in order."""
    return sorted(path.parent.name for path in runs_directory().glob("*/campaign.json"))


def known_state(campaign: str) -> State:
    """Reads the state of a campaign that must exist.

    Raises:
        ValueError: There is no such campaign; the message names those that there are.
    """
    state = read_state(campaign_directory(campaign))
    if state is None:
        known = known_campaigns()
        raise ValueError(
            f"no campaign {campaign} under {runs_directory()}: {'known: ' + ', '.join(known) if known else 'none has run yet'}"
        )
    return state


def write_state(directory: Path, state: State) -> None:
    """Replaces campaign.json atomically."""
    write_json(directory / "campaign.json", state)


def open_target(state: State, num_rounds: int) -> int:
    """The round a start goes to.

    The open target of a start that did not finish, else `num_rounds` beyond the last round.
    """
    return state.last_round + num_rounds if state.target is None else state.target


def with_round(state: State, record: RoundRecord) -> State:
    """The state with a finished round, which is the champion if it is new and was promoted.

    A round that is known already moves nothing: the champion may be another since, by a later round or by a rollback.
    """
    new = all(known.round != record.round for known in state.rounds)
    rounds = [*(known for known in state.rounds if known.round != record.round), record]
    champion = Champion(round=record.round, digest=record.policy_digest) if new and record.promoted else state.champion
    return state.model_copy(
        update={"rounds": tuple(sorted(rounds, key=lambda known: known.round)), "champion": champion}
    )


def finish_round(directory: Path, record: RoundRecord) -> State:
    """Adds a finished round to campaign.json, and moves the champion if it was promoted.

    Adding it again moves nothing.
    """
    state = read_state(directory)
    assert state is not None
    state = with_round(state, record)
    write_state(directory, state)
    return state


def note_mlflow_run(directory: Path, round: int, run_id: str) -> None:
    """Writes where MLflow has a finished round into campaign.json, and changes nothing else of it."""
    state = read_state(directory)
    assert state is not None
    rounds = tuple(
        known.model_copy(update={"mlflow_run_id": run_id}) if known.round == round else known for known in state.rounds
    )
    write_state(directory, state.model_copy(update={"rounds": rounds}))
