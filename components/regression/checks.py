"""Whether an answer solves an item of a task. Knows no model and no file."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from components.functions.library import exact_answer, json_schema, pattern


class _Check(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def outcome(self, response: str) -> float:
        """Return 1 if a response solves the item, else 0.

        Raises:
            ValueError: The check itself is malformed, such as a pattern that is not one.
        """
        raise NotImplementedError


class ExactCheck(_Check):
    """The final answer is one of the right ones, as `components/functions/library/exact_answer.py` compares them."""

    kind: Literal["exact"]
    answer: str | float | tuple[str | float, ...]
    marked: bool = False
    """Whether an answer without a mark such as `#### 12` is wrong, whatever it says."""

    def outcome(self, response: str) -> float:
        """Return 1 if the final answer is right."""
        right = list(self.answer) if isinstance(self.answer, tuple) else self.answer
        return _applied(exact_answer.score(response, right, self.marked))


class NumberCheck(_Check):
    """The last number of the answer is the right one, within a tolerance."""

    kind: Literal["number"]
    answer: float = Field(allow_inf_nan=False)
    tolerance: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)

    def outcome(self, response: str) -> float:
        """Return 1 if the last number is near enough."""
        numbers = exact_answer.NUMBER.findall(response)
        if not numbers:
            return 0.0
        # Decimal, so that 3.13 is within 0.01 of 3.14.
        distance = abs(Decimal(numbers[-1].replace(",", "")) - Decimal(str(self.answer)))
        return float(distance <= Decimal(str(self.tolerance)))


class RegexCheck(_Check):
    """The answer has the form of a regular expression."""

    kind: Literal["regex"]
    pattern: str
    whole: bool = True
    """Whether the whole answer must match, without the white space around it; else some part of it."""
    flags: str = "s"
    """Letters of `re`'s flags."""

    def outcome(self, response: str) -> float:
        """Return 1 if the answer matches."""
        return _applied(pattern.score(response, self.pattern, self.whole, self.flags))


class JsonSchemaCheck(_Check):
    """The answer is JSON that satisfies a schema."""

    kind: Literal["json_schema"]
    rules: dict[str, Any] = Field(alias="schema")
    fenced: bool = True
    """Whether the JSON may stand in a Markdown code block that is the whole answer."""

    def outcome(self, response: str) -> float:
        """Return 1 if the answer is such JSON."""
        return _applied(json_schema.score(response, self.rules, self.fenced))


class ContainsCheck(_Check):
    """The answer has all of some texts, and none of others."""

    kind: Literal["contains"]
    texts: tuple[str, ...] = Field(default=(), alias="all")
    forbidden: tuple[str, ...] = Field(default=(), alias="none")
    ignore_case: bool = False

    def outcome(self, response: str) -> float:
        """Return 1 if the answer is not empty, has all texts and no forbidden one."""
        if not (self.texts or self.forbidden) or not all((*self.texts, *self.forbidden)):
            raise ValueError("contains needs texts that are not empty: give `all` or `none`")
        answer, *others = (
            text.casefold() if self.ignore_case else text for text in (response, *self.texts, *self.forbidden)
        )
        wanted, unwanted = others[: len(self.texts)], others[len(self.texts) :]
        has_all = all(text in answer for text in wanted)
        return float(bool(answer.strip()) and has_all and not any(text in answer for text in unwanted))


Check = ExactCheck | NumberCheck | RegexCheck | JsonSchemaCheck | ContainsCheck
KINDS = ("exact", "number", "regex", "json_schema", "contains")
_ADAPTER: TypeAdapter[Check] = TypeAdapter(Annotated[Check, Field(discriminator="kind")])


def read_check(value: Any) -> Check:
    """Read a check from the value of a row.

    Raises:
        ValueError: It is not one; a pydantic error names the key.
    """
    check = _ADAPTER.validate_python(value)
    check.outcome("")  # a pattern or schema that is malformed fails here
    return check


def _applied(score: float | None) -> float:
    if score is None:
        raise ValueError("the right answer is missing: give at least one")
    return score
