"""How a request to a chat endpoint fails: in a way that may pass, for one question, or for every question.

Knows no network.
"""

import re

from components.judges.chat.ledger import Tokens

MAX_QUOTED_CHARACTERS = 300
MAY_PASS = frozenset({408, 409, 424, 425, 429})
REFUSES_THE_QUESTION = frozenset({400, 413, 422, 451})
FORBIDDEN = 403
REMEDIES = {
    401: "the key from endpoint.api_key_from must be valid",
    402: "check the balance of the key's account",
    403: "the key from endpoint.api_key_from must have access to this model",
    404: "endpoint.url must be the base address, which often ends in /v1, and endpoint.model a model of the endpoint",
}
ABOUT_THE_PROMPT = re.compile(
    r"content[ _-]?(filter|manag|polic|exists|violat)|moderat|flagged|inappropriate|unsafe|usage (polic|guideline)"
    r"|high risk|sensitive (content|info|word)|invalid_prompt|data_?inspection|guardrail|json_validate_failed"
    r"|context[ _](length|window|size)|(prompt|input|message)s? (is|are) too (long|large)|too many tokens"
    r"|input token count|reduce the length|敏感|不安全",
    re.IGNORECASE,
)
"""Words of OpenAI, Azure, OpenRouter, Mistral, Gemini, Anthropic, Groq, DashScope, DeepSeek, vLLM and others when they
refuse what is asked, not how it is asked: content filters, moderation, the length of the context."""


OF_A_GATEWAY = frozenset({502, 504, 524})
"""Statuses of a gateway that gave up waiting: the model behind it may have done the work."""


class AttemptFailed(Exception):
    """An attempt failed in a way that may pass; the message continues 'the endpoint ...'."""

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        may_be_charged: bool = False,
        tokens: Tokens | None = None,
        was_reached: bool = True,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the endpoint asks to wait."""
        self.may_be_charged = may_be_charged
        """Whether the endpoint may have done the work."""
        self.tokens = tokens
        """Tokens that it counted all the same."""
        self.was_reached = was_reached
        """Whether there was a connection; without one the question cannot be at fault."""


class QuestionRefused(Exception):
    """The endpoint refuses the question for good; the message continues 'the endpoint ...'."""

    def __init__(self, message: str, *, body: str, about_the_prompt: bool) -> None:
        super().__init__(message)
        self.body = body
        """All that the endpoint says."""
        self.about_the_prompt = about_the_prompt
        """Whether it says that the prompt is the reason: its content or its length."""


class EndpointRefused(Exception):
    """The endpoint refuses this user, or is not the right one; the message continues 'the endpoint ...'."""

    def __init__(self, message: str, remedy: str, *, may_be_the_prompt: bool = False) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.may_be_the_prompt = may_be_the_prompt
        """Whether an endpoint that answers other prompts may mean this prompt, as with a 403."""


Failure = AttemptFailed | QuestionRefused | EndpointRefused


def failure_of(status: int, text: str, *, retry_after: float | None = None) -> Failure:
    """Return the failure that a status other than success means.

    Args:
        status: HTTP status, or the code of an error that came with status 200.
        text: The body.
        retry_after: Seconds that the endpoint asks to wait.
    """
    message = f"answered {status}{excerpt(text)}"
    if status >= 500 or status in MAY_PASS:
        return AttemptFailed(message, retry_after=retry_after, may_be_charged=status in OF_A_GATEWAY)
    about_the_prompt = ABOUT_THE_PROMPT.search(text) is not None
    if status in REFUSES_THE_QUESTION or (status == FORBIDDEN and about_the_prompt):
        return QuestionRefused(message, body=text, about_the_prompt=about_the_prompt)
    remedy = REMEDIES.get(status, "endpoint.url must be the base address of an OpenAI-compatible endpoint")
    return EndpointRefused(message, remedy, may_be_the_prompt=status == FORBIDDEN)


def excerpt(text: str) -> str:
    """Return the start of a body in brackets, in one printable line."""
    line = one_line(text)
    return f" ({line})" if line else " (empty body)"


def one_line(text: str) -> str:
    """Return the start of a text in one printable line."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:MAX_QUOTED_CHARACTERS]
