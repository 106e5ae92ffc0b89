"""Compare the final answer of a response with the one that the prompt's row holds."""

import re
import unicodedata
from decimal import Decimal, InvalidOperation

MARKS = (
    re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}"),
    re.compile(r"<answer>(.*?)</answer>", re.DOTALL),
    re.compile(r"^#### *(.+)$", re.MULTILINE),
)
"""Ways to mark a final answer, each as the answers of published data sets are marked."""
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
UNITS = "$€£%°"


def score(response: str, answer: str | float | list[str | float] | None, marked: bool = False) -> float | None:
    r"""Return 1 if a response gives the right answer, else 0.

    The answer is what the last mark in the response holds: `\boxed{...}`, `<answer>...</answer>` or a line `#### ...`.
    Without a mark it is the whole response or, if the right answer is a number, the last number in it. White space,
    letter case and a final full stop do not count; equal numbers are equal answers.

    Args:
        response: The response.
        answer: The column `answer`: the right answer, or a list of right answers. Null does not apply.
        marked: Whether a response without a mark is wrong, whatever it says.
    """
    right = answer if isinstance(answer, list) else [answer]
    if any(each is None for each in right) or not right:
        return None
    marks = [found for pattern in MARKS for found in pattern.finditer(response)]
    if marks:
        said = [max(marks, key=lambda found: found.end()).group(1)]
    elif marked:
        return 0.0
    else:
        said = [response, *NUMBER.findall(response)[-1:]]
    return float(any(_equal(own, str(each), whole=own is response) for own in said for each in right))


def _equal(said: str, right: str, *, whole: bool) -> bool:
    number, right_number = _number(said), _number(right)
    if right_number is not None:
        return number == right_number
    # A number that was picked out of a response is no answer to a question for a text.
    return (whole or number is None) and _plain(said) == _plain(right)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .")


def _number(text: str) -> Decimal | None:
    plain = text.strip().rstrip(".").strip(UNITS + " ")
    if not NUMBER.fullmatch(plain):
        return None
    try:
        return Decimal(plain.replace(",", ""))
    except InvalidOperation:
        return None
