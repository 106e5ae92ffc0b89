"""What a judge reads of a response whose thoughts are hidden from it: the text without what the model thinks.

A thought stands between two tags. A response begins within one if the chat template opens it at the end of the prompt.
Knows no particular judge.
"""

from collections.abc import Sequence
from dataclasses import replace

from components.config import JudgeSettings
from components.judges.protocol import Group, Judge, JudgeContext, Verdict

FORMS = {
    "<think>": ("<think>", "</think>"),
    "<|channel|>": ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    "[THINK]": ("[THINK]", "[/THINK]"),
    "<seed:think>": ("<seed:think>", "</seed:think>"),
    "<|START_THINKING|>": ("<|START_THINKING|>", "<|END_THINKING|>"),
}
"""By what a chat template holds, the tags of the family's thoughts."""


class ThoughtlessJudge:
    """Shows another judge the responses without their thoughts; its verdicts stand for the whole responses."""

    def __init__(self, judge: Judge, config: JudgeSettings, context: JudgeContext) -> None:
        """Take the judge and the tags."""
        self.name = judge.name
        self._judge, self._tags, self._context = judge, config.thought_tags, context

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Judge every response, or every pair, as the other judge does; errors as there."""
        return self._judge.judge(self.shown(groups))

    def shown(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups as the judge reads them: without thoughts, and without tokens, which hold the thoughts."""
        opened = self._opened(groups)
        return [
            replace(
                group,
                responses=tuple(
                    (number, visible(text, self._tags, opened=is_opened)) for number, text in group.responses
                ),
                tokens={},
            )
            for group, is_opened in zip(groups, opened, strict=True)
        ]

    def _opened(self, groups: Sequence[Group]) -> list[bool]:
        """Return for each group whether the policy's chat template opens a thought in front of its responses.

        Outside of a campaign there is no policy, and a thought without its first tag is known by its last one.
        """
        policy, limits = self._context.policy, self._context.limits
        if policy is None or limits is None:
            return [False] * len(groups)
        from components.models.tokens import load_chat

        chat = load_chat(policy, limits)
        ends = (chat.render(group.messages, add_generation_prompt=True) for group in groups)
        return [end.rstrip().endswith(self._tags[0]) for end in ends]


def without_thoughts(judge: Judge, config: JudgeSettings, context: JudgeContext) -> Judge:
    """Return the judge, or one that hides thoughts from it if the configuration says so."""
    return ThoughtlessJudge(judge, config, context) if config.hide_thoughts else judge


def as_shown(judge: Judge, groups: Sequence[Group]) -> Sequence[Group]:
    """Return the groups as a judge reads them."""
    return judge.shown(groups) if isinstance(judge, ThoughtlessJudge) else groups


def visible(text: str, tags: tuple[str, str], *, opened: bool) -> str:
    """Return a response without its thoughts; empty if it ends within one.

    Args:
        text: The response.
        tags: What begins a thought and what ends it.
        opened: Whether the response begins within a thought. A last tag without a first one ends such a thought too.
    """
    begin, end = tags
    shown, rest = "", begin + text if opened else text
    while rest:
        before, _, thought = rest.partition(begin)
        shown += before
        rest = thought.partition(end)[2]
    # What stands in front of a last tag without a first one was thought from the beginning.
    shown = shown.rpartition(end)[2]
    return shown if shown == text else shown.lstrip()


def tags_of_template(template: str) -> tuple[str, str] | None:
    """Return the tags of the thoughts that a chat template writes or reads; None if it shows no known ones."""
    return next((tags for sign, tags in FORMS.items() if sign in template), None)
