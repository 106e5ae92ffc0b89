"""UltraFeedback's form: a prompt with several completions that are rated by aspect (arXiv 2310.01377).

A rating is `fine-grained_score`, the mean of the four aspects' ratings from 1 to 5, or that mean if the score is
missing. `overall_score`, from 1 to 10, is used only if no completion of the file has the other one: in the first
release many of the 2,628 scores of 10 were meant as 1, and copies of that release are still about.
"""

from collections import Counter
from typing import Any

from components.data.forms.form import Form, Reading, nested, number, text
from components.data.forms.rated import Choice, chosen_two, rated_pair
from components.data.rows import Row, Rows
from components.data.seed_pair import SeedPair

FINE, OVERALL = "fine-grained_score", "overall_score"
TOO_FEW = "fewer than two completions with a rating"


def _read(read: Rows, choice: Choice) -> Reading:
    completions = [_completions(row) for row in read.rows]
    fine = [[_fine_score(row, each) for each in several] for row, several in zip(read.rows, completions, strict=True)]
    if not any(score is not None for scores in fine for score in scores):
        fine = [
            [_rating(row, OVERALL, each.get(OVERALL)) for each in several]
            for row, several in zip(read.rows, completions, strict=True)
        ]
    pairs: list[SeedPair] = []
    left_out: Counter[str] = Counter()
    for row, several, scores in zip(read.rows, completions, fine, strict=True):
        texts = [text(row, "a completion's response", each.get("response")) for each in several]
        rated = [(answer, score) for answer, score in zip(texts, scores, strict=True) if score is not None]
        if len(rated) < 2:
            left_out[TOO_FEW] += 1
        messages = [{"role": "user", "content": text(row, "instruction", row.values.get("instruction"))}]
        pairs += [rated_pair(messages, *two, place=row.place) for two in chosen_two(rated, choice)]
    return Reading(pairs, left_out=left_out)


def is_rated_by_aspect(row: Row) -> bool:
    """Return whether a completion of a row has a rating that is not the overall score; false for a malformed row."""
    try:
        return any(_fine_score(row, each) is not None for each in _completions(row))
    except ValueError:
        return False


def without_overall_score(row: Row) -> Row:
    """Return a row whose completions have no overall score; a malformed row stays as it is."""
    try:
        completions = _completions(row)
    except ValueError:
        return row
    kept = [{name: value for name, value in each.items() if name != OVERALL} for each in completions]
    return Row(row.place, {**row.values, "completions": kept})


def _completions(row: Row) -> list[dict[str, Any]]:
    value = nested(row, "completions")
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError(
            f'{row.place}: completions must be a list of objects such as {{"response": ..., "{FINE}": 4.5}}'
        )
    return value


def _fine_score(row: Row, completion: dict[str, Any]) -> float | None:
    score = _rating(row, FINE, completion.get(FINE))
    if score is not None:
        return score
    aspects = completion.get("annotations")
    if not isinstance(aspects, dict):
        return None
    ratings = [
        _rating(row, f"the rating of {name}", aspect.get("Rating"))
        for name, aspect in aspects.items()
        if isinstance(aspect, dict)
    ]
    given = [rating for rating in ratings if rating is not None]
    return sum(given) / len(given) if given else None


def _rating(row: Row, name: str, value: Any) -> float | None:
    """Return a rating, which may be text such as "4"; None if there is none ("N/A")."""
    if isinstance(value, str):
        if value.strip().upper() in ("", "N/A", "NA", "NONE"):
            return None
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"{row.place}: {name} is {value!r}, but must be a number or N/A") from None
    return None if isinstance(value, float) and value != value else number(row, name, value)


def _write(pair: SeedPair) -> list[dict[str, Any]]:
    """Write the worse completion with a score of 0: only the difference is known."""
    rated = ((pair.chosen, float(pair.margin or 0)), (pair.rejected, 0.0))
    completions = [{"response": answer, FINE: score} for answer, score in rated]
    return [{"instruction": pair.messages[0]["content"], "completions": completions}]


ULTRAFEEDBACK = Form(
    name="ultrafeedback",
    title="UltraFeedback: an instruction and rated completions",
    holds=frozenset({"pair", "margin", "tie"}),
    needs=frozenset({"margin"}),
    columns=frozenset({"instruction", "completions"}),
    matches=lambda read: {"instruction", "completions"} <= set(read.columns) and "chosen" not in read.columns,
    read=_read,
    write=_write,
    not_read="the completions' models, principles, custom_system_prompt, critiques and single aspects",
)
