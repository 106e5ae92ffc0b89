"""The Python judge: the user's own functions, whose weighted sum scores each response.

Several functions are parts of the judge, so that what each one said is stored. A function that does not apply to a
response (it returned None) is left out of its sum, as TRL does; one that failed makes the verdict invalid.
"""

import itertools
import math
from collections.abc import Collection, Sequence

from components import artifacts
from components.config import FunctionConfig, JudgeSettings
from components.data.messages import Messages
from components.functions.checking import check_functions
from components.functions.process import Score
from components.functions.scoring import Sample, code_identity, score
from components.functions.source import find_source
from components.judges.function_scores import FUNCTION, NOT_APPLICABLE
from components.judges.protocol import Group, Judge, JudgeContext, Opinion, Verdict, make_verdict


class PythonJudge:
    """Score each response by the weighted sum of what the functions return."""

    def __init__(self, config: JudgeSettings, context: JudgeContext) -> None:
        """Keep the functions; their process is started to judge."""
        self._config, self._scratch = config, context.scratch
        self._names = part_names(config.all_functions)
        self.name = f"python:{'+'.join(self._names)}"

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Return, per response, each function's verdict if there are several, then the conclusion.

        Raises:
            ValueError: A function cannot be loaded any more.
            JudgeUnavailable: Many calls in a row ended the functions' process.
        """
        samples = [sample for number, group in enumerate(groups) for sample in samples_of(group, number)]
        by_function = score(samples, self._config.all_functions, self._config, scratch=self._scratch)
        scores = iter(list(zip(*by_function, strict=True)))
        return [
            verdict
            for group in groups
            for sample_id, _ in group.responses
            for verdict in self._verdicts(group, sample_id, next(scores))
        ]

    def _verdicts(self, group: Group, sample_id: int, scores: Sequence[Score]) -> list[Verdict]:
        conclusion = make_verdict(self.name, group, sample_id, self._sum(scores))
        if len(scores) == 1:
            return [conclusion]
        parts = [
            make_verdict(
                self.name,
                group,
                sample_id,
                Opinion(each.value, each.error or (NOT_APPLICABLE if each.value is None else "")),
                part=f"{FUNCTION}{name}",
            )
            for name, each in zip(self._names, scores, strict=True)
        ]
        return [*parts, conclusion]

    def _sum(self, scores: Sequence[Score]) -> Opinion:
        functions = self._config.all_functions
        failed = next((number for number, each in enumerate(scores) if each.error), None)
        if failed is not None:
            return Opinion(None, f"{self._names[failed]}: {scores[failed].error}")
        applicable = [
            (name, function.weight, each.value)
            for name, function, each in zip(self._names, functions, scores, strict=True)
            if each.value is not None
        ]
        if not applicable:
            return Opinion(None, f"no function applies ({', '.join(self._names)} returned None)")
        total = math.fsum(weight * value for _, weight, value in applicable)
        detail = ", ".join(f"{name} {value:g}" for name, _, value in applicable) if len(functions) > 1 else ""
        return Opinion(total, detail)


def samples_of(group: Group, number: int) -> list[Sample]:
    """Return the responses of a group as the functions' samples."""
    return [
        Sample(
            group.messages,
            text,
            group.columns,
            group.tokens[sample_id].token_ids if sample_id in group.tokens else None,
            number,
        )
        for sample_id, text in group.responses
    ]


def part_names(functions: Sequence[FunctionConfig]) -> list[str]:
    """Return a short name for each function, `module.name`, which differs from the others' names."""
    names: list[str] = []
    for function in functions:
        source = find_source(function.function)
        name = f"{source.module.rpartition('.')[2]}.{source.name}"
        numbered = (f"{name}#{number}" for number in itertools.count(2))
        names.append(next(each for each in itertools.chain([name], numbered) if each not in names))
    return names


def load(config: JudgeSettings, context: JudgeContext) -> Judge:
    """Return the judge of the configured functions."""
    return PythonJudge(config, context)


def digest(config: JudgeSettings) -> str:
    """Return the identity of the functions: their code, weights, arguments and forms, in their order."""
    return artifacts.digest(
        {"functions": [[code_identity(function), function.weight] for function in config.all_functions]}
    )


def check(config: JudgeSettings, prompts: Sequence[Messages], columns: Collection[str] | None) -> None:
    """Load the functions in a process of their own, and check that they can be called with these columns.

    Raises:
        ValueError: One cannot; one line with the remedy.
    """
    check_functions(config.all_functions, config, columns, rows="the prompts' rows")
