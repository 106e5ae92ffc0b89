"""Votes for other tools: each person's own, under a pseudonym, or as pairs with the share of the votes."""

import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from components.data.forms.convert import Conversion, convert, named_form
from components.data.forms.judged import SCORES, JudgedPair
from components.data.forms.judged_files import write_judged_pairs
from components.data.forms.registry import FORMS
from components.data.forms.votes import pairs_by_votes
from components.data.row_files import write_rows
from components.data.seed_pair import SeedPair
from components.labelling.progress import read_standing
from components.labelling.task import Vote

SIDES = ("first", "second")


def labelled_pairs(campaign_directory: Path) -> list[SeedPair]:
    """Return a pair per item that people judged, without gold questions; p is the share of the votes for chosen."""
    pairs: list[SeedPair] = []
    for number, pair in enumerate(judged_pairs(campaign_directory), 1):
        scores = [dict(zip(SIDES, SCORES[said], strict=True)) for _, said in pair.votes]
        answers = dict(zip(SIDES, (pair.first, pair.second), strict=True))
        place = f"item {number}"
        pairs += pairs_by_votes(pair.messages, answers, scores, "best_worst", place=place, tag=pair.tag)
    return pairs


def judged_pairs(campaign_directory: Path) -> list[JudgedPair]:
    """Return each item that people judged with their votes under pseudonyms, without gold questions and skips."""
    standing = read_standing(campaign_directory)
    stands_for = pseudonyms(campaign_directory.name, [vote for _, votes in standing for vote in votes])
    pairs = []
    for plan, votes in standing:
        for name in plan.needed:
            item = plan.items[name]
            given = [vote for vote in votes if vote.item_id == name]
            said = tuple((stands_for[vote.annotator], vote.choice) for vote in given if vote.choice != "skip")
            if said:
                pairs.append(JudgedPair(item.messages, item.first, item.second, item.tag, said))
    return pairs


def pseudonyms(campaign: str, votes: Iterable[Vote]) -> dict[str, str]:
    """Return what stands for each person's name outside of the campaign: an address that leads to nobody.

    People are numbered by their first vote, so that somebody who joins later changes nobody's number.

    Args:
        campaign: The campaign's name.
        votes: All votes that stand in it.
    """
    names = dict.fromkeys(vote.annotator for vote in sorted(votes, key=lambda vote: datetime.fromisoformat(vote.at)))
    return {name: f"{campaign}.person-{number}@ratchet.invalid" for number, name in enumerate(names, 1)}


def export_pairs(campaign_directory: Path, out: Path, *, target: str) -> Conversion:
    """Write what people judged in a published form; what the form cannot hold is counted.

    A form with room for it gets each person's vote; the others get a pair with the share of the votes.

    Args:
        campaign_directory: The campaign's directory.
        out: File to write; its suffix says how, as in `ratchet convert`.
        target: Name of the form.

    Raises:
        ValueError: Nobody has judged anything, the form is not known, or no pair fits it.
    """
    form = named_form(target)
    pairs = labelled_pairs(campaign_directory)
    if not pairs:
        raise ValueError(f"{campaign_directory.name} has no votes yet: look at `ratchet label --status`")
    if form.write_judged is not None:
        return write_judged_pairs(judged_pairs(campaign_directory), out, form=form)
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "votes.jsonl"
        write_rows(source, (row for pair in pairs for row in FORMS["ratchet"].write(pair)))
        return convert(str(source), out, target=target, source_form="ratchet", unfit="skip")
