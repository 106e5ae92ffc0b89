"""One pair out of what several annotators said about the same answers. Knows no form."""

from collections.abc import Sequence

from components.data.forms.rated import Choice, chosen_two
from components.data.messages import Messages
from components.data.seed_pair import TIED, SeedPair

Vote = dict[str, float]
"""One annotator's scores of answers by their names; higher is better, and only the order counts."""


def pairs_by_votes(
    messages: Messages,
    answers: dict[str, str],
    votes: Sequence[Vote],
    choice: Choice,
    *,
    place: str,
    tag: str | None = None,
) -> list[SeedPair]:
    """Return the pairs of a prompt whose answers annotators ranked.

    Answers are ordered by the mean of their places among each other. With several annotators, p is the share that puts
    the chosen answer first, and a tie counts half; one annotator's word is certain.

    Args:
        messages: The prompt.
        answers: The answers' texts by name; only those that every vote scores are paired.
        votes: One per annotator, at least one.
        choice: The best with the worst, or every two.
        place: Name of the row, for errors.
        tag: Kind of preference.
    """
    names = [name for name in answers if all(name in vote for vote in votes)]
    wins = {name: sum(_share(votes, name, other) for other in names if other != name) for name in names}
    pairs = []
    for (one, _), (two, _) in chosen_two([(name, wins[name]) for name in names], choice):
        share = _share(votes, one, two)
        (better, worse), p = ((one, two), share) if share >= TIED else ((two, one), 1 - share)
        label = p if len(votes) > 1 or p == TIED else None
        margin = 0.0 if p == TIED else None
        pairs.append(SeedPair(messages, answers[better], answers[worse], label, margin, tag, place))
    return pairs


def _share(votes: Sequence[Vote], one: str, two: str) -> float:
    """Return the share of the votes that put `one` before `two`; a tie counts half."""
    won = [TIED if vote[one] == vote[two] else float(vote[one] > vote[two]) for vote in votes]
    return sum(won) / len(won)
