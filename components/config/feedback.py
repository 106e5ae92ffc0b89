"""How thumbs of the users of a served champion become training data."""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from components.config.section import Section


class FeedbackConfig(Section):
    """Thumbs and corrections that users of `ratchet serve` gave (docs/feedback.md)."""

    use: Literal["off", "only", "with_round"] = "off"
    """`off`: no round reads them; `only`: they are a round's whole data, and without enough of them there is no round;
    `with_round`: they are added to the judged answers of a round, if there are enough."""
    min_rows: int = Field(default=50, ge=1)
    """Fewest usable thumbs that no earlier round took; fewer wait for a later round."""
    max_rows: int = Field(default=10_000, ge=1)
    """Most thumbs that a round takes, oldest first; the others wait for the next round."""
    include_unserved: bool = False
    """Whether to train on answers of which the gateway does not know that it sent them."""
    noise: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Assumed share of thumbs that say the opposite of what the user thinks. Above 0 the thumbs give soft labels: the
    probability that the majority of an answer's thumbs is right."""
    retention_days: int = Field(default=90, ge=1)
    """Days after which the gateway deletes the texts of thumbs, whether a round took them or not; a round that took
    them keeps its copy."""
    consent: str = Field(default="", max_length=4000)
    """Text above the chat to which a user agrees before anything is kept; empty says what is kept, for how long and
    what for."""
    FREE_TO_CHANGE: ClassVar[frozenset[str]] = frozenset({"retention_days", "consent"})

    @field_validator("use", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        """Take YAML's `off`, which is false there, for the word."""
        return "off" if value is False else value
