"""How a message says why nothing, or too little, is left: which step left out how many, and what to change."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.records import Record


class LeftOut(Record):
    """Units that a step left out for one reason."""

    count: int
    cause: str
    """The reason, with the knob and its value; with the largest margin if a margin decided."""
    remedy: str = ""


class Step(Record):
    """A step of the way from prompts to training pairs: what it received, and what it left out."""

    total: int
    noun: str
    """The units, such as `prompts`, in the plural."""
    left_out: tuple[LeftOut, ...]

    @property
    def text(self) -> str:
        """The step as `48 prompts (45 x cause; 2 x cause)`, most first."""
        ranked = sorted(self.left_out, key=lambda each: -each.count)
        listed = "; ".join(f"{each.count} x {each.cause}" for each in ranked)
        return f"{self.total} {self.noun}" + (f" ({listed})" if listed else "")


def step(total: int, noun: str, left_out: Iterable[LeftOut]) -> Step:
    """Return a step without the reasons that left out nothing."""
    return Step(total=total, noun=noun, left_out=tuple(each for each in left_out if each.count))


def counted(reasons: Mapping[str, int], remedies: Mapping[str, str]) -> list[LeftOut]:
    """Return counted reasons as what a step left out; `remedies` need not name each."""
    return [LeftOut(count=count, cause=reason, remedy=remedies.get(reason, "")) for reason, count in reasons.items()]


def as_json(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return steps as they are published, for a later stage that finds too little left."""
    return [each.model_dump(mode="json") for each in steps]


def too_little(headline: str, steps: Sequence[Step], *, otherwise: str) -> str:
    """Word a stop: what is too little, how it came to be, step by step, and the remedy.

    Args:
        headline: What is too little, with the limit that it breaks.
        steps: The steps in their order.
        otherwise: The remedy if no step left out anything, or the one that left out most has none.
    """
    reasons = [each for each in (reason for each_step in steps for reason in each_step.left_out) if each.count]
    most = max(reasons, key=lambda each: each.count, default=None)
    remedy = most.remedy if most is not None and most.remedy else otherwise
    return f"{headline}: {' gave '.join(each.text for each in steps)}: {remedy}"
