"""A function of the user's own, and what one call of it may take."""

import re
from typing import ClassVar, Literal

from pydantic import Field, JsonValue, field_validator

from components.config.section import Section

FUNCTION = re.compile(r"((?P<file>.+\.py)|(?P<module>[A-Za-z_]\w*(\.\w+)*)):(?P<name>[A-Za-z_]\w*)")


def check_function_name(function: str) -> str:
    """Return the name of a function if it has one of the two forms, or is empty.

    Raises:
        ValueError: It has not.
    """
    if function and not FUNCTION.fullmatch(function):
        raise ValueError(
            f"{function!r} does not name a function: write FILE.py:NAME for a file of yours, or package.module:NAME "
            "for an installed module"
        )
    return function


class CallLimits(Section):
    """What a call of the user's function may take; the function runs in a process of its own."""

    time_limit_seconds: float = Field(default=60.0, gt=0.0)
    """Seconds that one call of a Python function may take. A call that takes longer is killed, and its responses have
    invalid verdicts."""
    memory_limit_gb: float = Field(default=4.0, gt=0.0)
    """Memory of the process that runs the Python functions, with its children, in GiB; the call that exceeds it is
    killed."""
    responses_per_call: int = Field(default=64, ge=1)
    """Responses that a function of `completions` gets in one call; the responses to one prompt stay together."""
    concurrent_calls: int = Field(default=16, ge=1, le=1024)
    """Calls of an `async` function that wait at the same time; other functions are called one after the other."""
    CALL_LIMITS: ClassVar[tuple[str, ...]] = (
        "time_limit_seconds",
        "memory_limit_gb",
        "responses_per_call",
        "concurrent_calls",
    )


class FunctionConfig(Section):
    """One of several functions that score a response together."""

    function: str
    """`FILE.py:NAME`, or `package.module:NAME` of an installed module."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Factor of its score in the sum; negative for a penalty."""
    arguments: dict[str, JsonValue] = {}
    """More keyword arguments of each call, the same for all responses, such as `{pattern: "[0-9]+"}`."""
    PATHS: ClassVar[tuple[str, ...]] = ("function",)
    form: Literal["messages", "text"] = "messages"
    """How the function gets prompts and completions: `messages`, as TRL's functions get them from conversational data;
    or `text`, of a prompt the text of its last message."""

    @field_validator("function")
    @classmethod
    def _has_a_form(cls, function: str) -> str:
        if not function:
            raise ValueError("is empty: write FILE.py:NAME or package.module:NAME")
        return check_function_name(function)
