"""The evidence for a promotion, gathered while a judge compares. Knows no judge and no file."""

from collections.abc import Mapping, Sequence

from components.evaluation.samples import by_prompt
from components.records import Evidence, PromotionTest
from components.statistics.sequential_test import SequentialTest

SHOWN, HOPELESS, ALL_JUDGED = "shown", "hopeless", "all judged"
"""Why the judging ended."""


class PromotionEvidence:
    """Bets on the outcomes against the champion, prompt by prompt."""

    def __init__(self, test: PromotionTest, *, num_prompts: int, samples_per_prompt: int) -> None:
        """Begin with the level of the test.

        Args:
            test: Its level and settings.
            num_prompts: Prompts that there are to compare.
            samples_per_prompt: Outcomes of each prompt.
        """
        self._test = SequentialTest(
            level=test.level, num_prompts=num_prompts, null=test.min_win_rate, verdict_cost=test.verdict_cost
        )
        self._samples_per_prompt = samples_per_prompt
        self.e_values: list[float] = []
        """The e-value after each judged prompt."""

    def enough(self, outcomes: Mapping[str, Sequence[float | None]]) -> bool:
        """Take the outcomes that are new, and return whether more of them would change nothing."""
        new = outcomes["champion"][len(self.e_values) * self._samples_per_prompt :]
        for of_prompt in by_prompt(new, self._samples_per_prompt):
            # Whatever a verdict that is missing would have said, it counts against the challenger.
            self._test.observe(sum(outcome or 0.0 for outcome in of_prompt) / len(of_prompt))
            self.e_values.append(self._test.e_value)
        return self._test.shown or self._test.hopeless

    @property
    def shown(self) -> bool:
        """Whether the evidence suffices."""
        return self._test.shown

    @property
    def ended(self) -> str:
        """Why the judging ended."""
        if self._test.shown:
            return SHOWN
        return HOPELESS if len(self.e_values) < self._test.num_prompts else ALL_JUDGED

    @property
    def result(self) -> Evidence:
        """The evidence so far."""
        return Evidence(
            level=self._test.level,
            e_value=self._test.e_value,
            shown=self._test.shown,
            num_judged=len(self.e_values),
            num_prompts=self._test.num_prompts,
        )
