"""Tells an endpoint that fails from a prompt that fails. Pure; knows no network.

A prompt has a dozen questions that follow each other, and one that the endpoint cannot take fails them all. Only
different prompts that fail, with no answer in between, are an outage.
"""

from components.judges.chat.failures import AttemptFailed, EndpointRefused, Failure, QuestionRefused

FAILURES_IN_A_ROW = 3
"""Number of different prompts that fail for good, without an answer in between, after which the asking ends."""


class Outage:
    """The failures since the last answer."""

    def __init__(self, *, has_answered: bool) -> None:
        """Begin without a failure.

        Args:
            has_answered: Whether the endpoint answered questions of this kind in an earlier start.
        """
        self._has_answered = has_answered
        self._failing: set[str] = set()
        self._to_blame: set[str] = set()
        self.questions = 0
        """Questions that failed since the last answer."""

    def answered(self) -> None:
        """Note an answer: what failed before it is the fault of the prompts."""
        self._has_answered = True
        self._to_blame |= self._failing
        self._failing, self.questions = set(), 0

    def fails(self, failure: Failure, *, prompt: str, question: str) -> bool:
        """Note a question that failed for good, and return whether the endpoint is at fault.

        An endpoint that has answered refuses a question because of its prompt, however many it refuses: a filter may
        refuse all prompts of a kind.

        Args:
            failure: How it failed.
            prompt: The prompt that it is about.
            question: The question itself: one that did not reach the endpoint counts alone.
        """
        if isinstance(failure, EndpointRefused) and not (failure.may_be_the_prompt and self._has_answered):
            return True
        if isinstance(failure, QuestionRefused) and (failure.about_the_prompt or self._has_answered):
            return False
        lost = isinstance(failure, AttemptFailed) and not failure.was_reached
        if not lost and prompt in self._to_blame:
            return False
        self.questions += 1
        self._failing.add(question if lost else prompt)
        return len(self._failing) >= FAILURES_IN_A_ROW
