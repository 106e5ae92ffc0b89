"""Makes an earlier promoted round, or the start model, the champion again.

Only campaign.json changes. A round that is open is safe: its stages are keyed by the digests of what they were made
from, so what it has published from the champion that was put aside is made again from the restored one.
"""

from datetime import UTC, datetime
from pathlib import Path

from components.campaign.files import read_manifest
from components.campaign.lock import locked
from components.campaign.models import model_of_round
from components.campaign.state import Champion, Rollback, State, read_state, round_directory, write_state
from components.history.stored import stored_files
from components.report.wording import model_name


def roll_back(directory: Path, round: int) -> State:
    """Puts a champion back under the campaign's lock; the next round starts from it.

    MLflow is told by `tracking.announce_champion`.

    Args:
        directory: runs/<campaign>, which must exist.
        round: A promoted round, or 0 for the start model.

    Returns:
        The campaign's new state, the rollback last among its `rollbacks`.

    Raises:
        ValueError: There is no such round, it was never promoted, it is the champion already, or its weights are gone
            or damaged.
        CampaignBusy: Somebody works on the campaign.
    """
    with locked(directory, command="ratchet rollback"):
        state = read_state(directory)
        assert state is not None, directory
        _refuse_unless_earlier_champion(state, round)
        model = model_of_round(directory, round)
        _refuse_damaged(directory, round, Path(model.base))
        at = datetime.now(UTC).isoformat(timespec="seconds")
        rollback = Rollback(former=state.champion.round, to=round, at=at, after_round=state.last_round)
        champion = Champion(round=round, digest=model.digest)
        state = state.model_copy(update={"champion": champion, "rollbacks": (*state.rollbacks, rollback)})
        write_state(directory, state)
        return state


def _refuse_unless_earlier_champion(state: State, round: int) -> None:
    promoted = [0, *(record.round for record in state.rounds if record.promoted)]
    others = ", ".join(str(number) for number in promoted if number != state.champion.round)
    choice = f"choose one of {others}" if others else "no other model was ever promoted"
    if round == state.champion.round:
        raise ValueError(f"{model_name(round)} is the champion of {state.campaign} already: {choice}")
    if round not in (0, *(record.round for record in state.rounds)):
        raise ValueError(f"campaign {state.campaign} has finished no round {round}: {choice}")
    if round not in promoted:
        raise ValueError(
            f"round {round} of {state.campaign} was never promoted, so nothing shows that it is any good: {choice}"
        )


def _refuse_damaged(directory: Path, round: int, base: Path) -> None:
    """Looks at the hashes of weights that lie within the campaign.

    A start model from elsewhere must at least be there.
    """
    if not base.is_dir():
        raise ValueError(
            f"the weights of {model_name(round)} are gone: {base} is no directory; restore it, or name another round"
        )
    stage = round_directory(directory, round) / ("dpo_train" if round else "start")
    manifest = read_manifest(stage)
    if manifest is None:
        raise ValueError(
            f"{stage} has no manifest that can be read, so its weights cannot be trusted: restore it, or name another round"
        )
    weights = [*stored_files(stage, manifest, within="model/"), *stored_files(stage, manifest, within="adapter/")]
    damaged = [file.name for file in weights if file.condition != "intact"]
    if damaged:
        raise ValueError(f"{stage / damaged[0]} no longer matches its recorded hash: restore it, or name another round")
