"""What a client sends about an answer: a thumb, and perhaps what the answer should have been. Knows no store."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from components.data.messages import format_messages
from components.runtime.printable import one_line

MOST_CHARACTERS = 200_000
"""Characters of all texts of a submission together."""
NAMES = r"^[A-Za-z0-9._:@+/=-]{1,200}$"
"""What identifiers of clients look like; they are no place for texts."""


class TooLarge(ValueError):
    """A submission is larger than is kept; the message names the limit."""


class SentMessage(BaseModel):
    """A chat message of the conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


class Submission(BaseModel):
    """A thumb of a user who agreed that it is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    client_id: str = Field(pattern=NAMES)
    """Name that the client gives this submission; sent again under it, it is kept once."""
    conversation_id: str = Field(pattern=NAMES)
    """Name of the conversation, by which a user may have it deleted."""
    completion_id: str | None = Field(default=None, pattern=NAMES)
    """`id` of the answer, as the endpoint gave it."""
    messages: tuple[SentMessage, ...] = Field(min_length=1, max_length=500)
    """The conversation before the answer."""
    response: str = Field(min_length=1)
    thumb: Literal["up", "down"]
    correction: str | None = Field(default=None, min_length=1)
    """What the model should have said."""
    consent: Literal[True]
    model: str | None = Field(default=None, max_length=200)
    """The model as the client names it."""

    @field_validator("messages")
    @classmethod
    def _ask_something(cls, messages: tuple[SentMessage, ...]) -> tuple[SentMessage, ...]:
        if messages[-1].role != "user":
            raise ValueError("the last message must be the user's: leave the answer out, it is `response`")
        if any(message.role == "system" for message in messages[1:]):
            raise ValueError("a system message must be the first")
        return messages

    @field_validator("correction")
    @classmethod
    def _differs(cls, correction: str | None, info: Any) -> str | None:
        if correction is not None and not correction.strip():
            raise ValueError("is blank: leave it out")
        if correction is not None and correction.strip() == str(info.data.get("response", "")).strip():
            raise ValueError("is the answer itself: leave it out")
        return correction

    @property
    def prompt(self) -> str:
        """The conversation as tables hold it."""
        return format_messages([message.model_dump() for message in self.messages])


def read_submission(content: Any) -> Submission:
    """Return a submission from what a client sent.

    Raises:
        TooLarge: Its texts are too long.
        ValueError: It cannot be kept; the message says in one line what is wrong, and does not repeat the texts.
    """
    if not isinstance(content, dict):
        raise ValueError("the body must be a JSON object")
    # The page of another client may send these under the names of the OpenAI API.
    content = {("completion_id" if name == "message_id" else name): value for name, value in content.items()}
    if content.get("consent") is not True:
        raise ValueError("consent must be true: nothing is kept of a user who did not agree")
    try:
        submission = Submission.model_validate(content)
    except ValidationError as error:
        raise ValueError(_described(error)) from None
    texts = [message.content for message in submission.messages] + [submission.response, submission.correction or ""]
    if sum(map(len, texts)) > MOST_CHARACTERS:
        raise TooLarge(f"the texts have more than {MOST_CHARACTERS} characters together: send a shorter conversation")
    return submission


def _described(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    if place.endswith("_id"):
        return f"{place} must be 1 to 200 letters, digits or any of ._:@+/=-"
    return one_line(f"{place}: {first['msg']}".removeprefix(": "))
