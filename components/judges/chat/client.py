"""The only way to a chat endpoint: questions in, checked replies out. Knows neither judges nor stages."""

from collections.abc import Sequence
from pathlib import Path

from components.config import EndpointConfig
from components.judges.chat.asking import Asking
from components.judges.chat.background import run_in_background
from components.judges.chat.credentials import read_key
from components.judges.chat.form import Question, Reply
from components.judges.chat.ledger import Ledger, Usage
from components.judges.chat.limits import RateLimits
from components.judges.chat.rehearsal import running_rehearsal
from components.records import RoundStopped

__all__ = ["Chat", "Question", "Reply", "Usage"]


class Chat:
    """Ask one model at one endpoint. Every answer is stored in `cache`, and no request is sent twice."""

    def __init__(self, endpoint: EndpointConfig, *, cache: Path) -> None:
        """Read the API key.

        Args:
            endpoint: The endpoint, with its limits and budget.
            cache: Directory of the answers; it must outlive a killed run.

        Raises:
            ValueError: The key is not set.
        """
        # A rehearsal sends nothing, so it needs no key; one of a Prefect block is there within a flow only.
        self._endpoint, self._key = endpoint, None if running_rehearsal() else read_key(endpoint)
        self._ledger = Ledger(cache, endpoint.model)
        self._limits = RateLimits(endpoint)

    @property
    def usage(self) -> Usage:
        """Usage of all calls in `cache`, those of earlier starts included; known after the first `ask`."""
        return self._ledger.usage

    def ask(self, questions: Sequence[Question], what: str) -> list[Reply]:
        """Ask all questions, as many at a time as the endpoint's section allows. Equal questions are asked once.

        In a rehearsal nothing is sent.

        Args:
            questions: The questions.
            what: The kind of replies, in a few words, for the progress.

        Returns:
            One reply per question, in order; a reply without a valid answer says why.

        Raises:
            JudgeUnavailable: The endpoint does not answer, or refuses this user; the answers so far are kept.
            RoundStopped: `max_calls` or `max_cost` is reached, or a listener of the progress stops the round; the
                answers so far are kept.
        """
        if (rehearsal := running_rehearsal()) is not None:
            return rehearsal.answer(self._endpoint, questions)
        with self._ledger:
            asking = Asking(self._endpoint, self._key, self._ledger, self._limits, questions)
            run_in_background(asking.run(), lambda: asking.report(what))
            asking.report(what)
        if asking.used_up is not None:
            raise RoundStopped(
                f"judge {self._endpoint.model} has used {asking.used_up}: raise it to continue; "
                "the answers so far are kept"
            )
        return [asking.reply_to(question) for question in questions]
