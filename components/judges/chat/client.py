"""The one way to a chat endpoint: questions in, checked replies out. Knows neither judges nor stages."""

from collections.abc import Sequence
from pathlib import Path

from components.config import EndpointConfig
from components.judges.chat.asking import Asking
from components.judges.chat.background import run_in_background
from components.judges.chat.credentials import read_key
from components.judges.chat.form import Question, Reply
from components.judges.chat.ledger import Ledger, Usage
from components.judges.chat.limits import RateLimits
from components.records import RoundStopped

__all__ = ["Chat", "Question", "Reply", "Usage"]


class Chat:
    """Asks one model of one endpoint. Every answer is kept in `cache`, and none is asked for twice."""

    def __init__(self, endpoint: EndpointConfig, *, cache: Path) -> None:
        """Finds the key.

        Args:
            endpoint: What is asked, and how much may be.
            cache: Directory of the answers; it must outlive a killed run.

        Raises:
            ValueError: The key is not where the configuration says.
        """
        self._endpoint, self._key = endpoint, read_key(endpoint)
        self._ledger = Ledger(cache, endpoint.model)
        self._limits = RateLimits(endpoint)

    @property
    def usage(self) -> Usage:
        """What all calls came to that `cache` holds, also those of earlier starts; known after the first `ask`."""
        return self._ledger.usage

    def ask(self, questions: Sequence[Question], what: str) -> list[Reply]:
        """Asks all questions, as many at a time as the endpoint's section allows. Equal questions are asked once.

        Args:
            questions: What is asked.
            what: What the replies are, in a few words, for the progress.

        Returns:
            A reply to each question, in order; one that got no valid answer says why.

        Raises:
            JudgeUnavailable: The endpoint does not answer, or refuses this user; what it answered is kept.
            RoundStopped: `max_calls` or `max_cost` is reached, or a listener of the progress stops the round; what it
                answered is kept.
        """
        with self._ledger:
            asking = Asking(self._endpoint, self._key, self._ledger, self._limits, questions)
            run_in_background(asking.run(), lambda: asking.report(what))
            asking.report(what)
        if asking.used_up is not None:
            raise RoundStopped(
                f"judge {self._endpoint.model} has used {asking.used_up}: raise it to go on; what it answered is kept"
            )
        return [asking.reply_to(question) for question in questions]
