"""Scores of responses by the user's functions: which calls are made, and which score belongs to which response.

Equal texts in equal conversations with equal columns are scored once. Knows no judge and no constraint.
"""

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.artifacts import digest
from components.config import CallLimits, FunctionConfig
from components.data.columns import Columns, format_columns
from components.data.messages import Messages, format_messages
from components.functions.process import Description, FunctionProcess, Score
from components.functions.source import code_digest
from components.functions.worker import BATCH, GROUP
from components.records import JudgeUnavailable
from components.runtime import progress

LOG, KNOWN = "functions.log", "functions.jsonl"
"""Files in the scratch directory: what the functions printed, and the scores that a later start takes up."""
MOST_KILLED = 16
"""Calls in a row that may end the process before the whole judging is given up."""
OWN_NAMES = {"prompts", "completions", "completion_ids", "prompt", "responses", "response"}
"""Names of what is scored; a column of such a name is not passed on."""


@dataclass(frozen=True)
class Sample:
    """A response that is scored."""

    messages: Messages
    response: str
    columns: Columns
    token_ids: tuple[int, ...] | None
    """The response's tokens as the policy sampled them; None for a response from outside."""
    group: int
    """Samples of the same number are the responses to one prompt that are judged together."""

    @property
    def content(self) -> tuple[str, str, str]:
        """What its score depends on."""
        return format_messages(self.messages), format_columns(self.columns), self.response


@dataclass
class _Call:
    """One call of a function: the samples that it scores, each content once."""

    samples: list[Sample] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """Of each sample, the key of its score."""


def score(
    samples: Sequence[Sample], functions: Sequence[FunctionConfig], limits: CallLimits, *, scratch: Path
) -> list[list[Score]]:
    """Return the score of each sample by each function, by function.

    Args:
        samples: What is scored.
        functions: The functions.
        limits: What a call may take.
        scratch: Directory for the log and the scores that outlive a killed run.

    Raises:
        ValueError: A function cannot be loaded or called.
        JudgeUnavailable: Many calls in a row ended the process.
    """
    known = _Known(scratch / KNOWN)
    with FunctionProcess(functions, limits, log=scratch / LOG) as process:
        descriptions = process.describe()
        plans = [
            _plan(samples, function, description, limits)
            for function, description in zip(functions, descriptions, strict=True)
        ]
        total = sum(len(set(keys)) for keys, _ in plans)
        runner = _Runner(process, known, limits, total)
        return [
            runner.run(number, function, description, keys, calls)
            for number, (function, description, (keys, calls)) in enumerate(
                zip(functions, descriptions, plans, strict=True)
            )
        ]


def code_identity(function: FunctionConfig) -> str:
    """Return a digest of everything that a function's scores depend on beside the responses; not of its place."""
    return digest([code_digest(function.function), function.arguments, function.form])


def column_names(samples: Sequence[Sample]) -> list[str]:
    """Return the names of all columns of the samples, in order."""
    return list(dict.fromkeys(name for sample in samples for name in sample.columns))


def _plan(
    samples: Sequence[Sample], function: FunctionConfig, description: Description, limits: CallLimits
) -> tuple[list[str], list[_Call]]:
    """Return the key of each sample's score, and the calls that give the scores of all keys."""
    identity, texts = code_identity(function), defaultdict[int, set[str]](set)
    if description.form == GROUP:  # which may score each response by the others
        for sample in samples:
            texts[sample.group].add(sample.response)
    keys = [digest([identity, sample.content, sorted(texts[sample.group])]) for sample in samples]
    of_group, planned = defaultdict[int, _Call](_Call), set[str]()
    for sample, key in zip(samples, keys, strict=True):
        if key not in planned:
            planned.add(key)
            of_group[sample.group].samples.append(sample)
            of_group[sample.group].keys.append(key)
    calls: list[_Call] = []
    for call in of_group.values():
        _add(calls, call, description, limits)
    return keys, calls


def _add(calls: list[_Call], call: _Call, description: Description, limits: CallLimits) -> None:
    """Add the samples of a group to the calls, in the form that the function wants."""
    if description.form == GROUP:
        calls.append(call)
    elif description.form == BATCH:
        if calls and len(calls[-1].samples) + len(call.samples) <= limits.responses_per_call:
            calls[-1].samples += call.samples
            calls[-1].keys += call.keys
        else:
            calls.append(call)
    else:
        calls += [_Call([sample], [key]) for sample, key in zip(call.samples, call.keys, strict=True)]


class _Runner:
    """Makes the calls and keeps their scores."""

    def __init__(self, process: FunctionProcess, known: "_Known", limits: CallLimits, total: int) -> None:
        self._process, self._known, self._limits, self._total = process, known, limits, total
        self._done = self._killed = 0

    def run(
        self,
        number: int,
        function: FunctionConfig,
        description: Description,
        keys: Sequence[str],
        calls: Sequence[_Call],
    ) -> list[Score]:
        """Return the score of each key by one function."""
        scores = {key: self._known[key] for call in calls for key in call.keys if key in self._known}
        open_calls = [call for call in calls if not all(key in scores for key in call.keys)]
        self._done += len({key for call in calls for key in call.keys} - {k for c in open_calls for k in c.keys})
        names = column_names([sample for call in calls for sample in call.samples])
        size = self._limits.concurrent_calls if description.is_async else 1
        for first in range(0, len(open_calls), size):
            together = open_calls[first : first + size]
            arguments = [_arguments(call, names, function, description) for call in together]
            expected = [None if description.form not in (BATCH, GROUP) else len(call.samples) for call in together]
            for call, answer in zip(together, self._answers(number, arguments, expected), strict=True):
                own = dict(zip(call.keys, answer, strict=True))
                scores |= own
                self._known.keep(own)
                self._done += len(own)
                progress.report(self._done, self._total, f"scores of {function.function}")
        return [scores[key] for key in keys]

    def _answers(self, number: int, arguments: list[dict[str, Any]], expected: list[int | None]) -> list[list[Score]]:
        answers, survived = self._process.call(number, arguments, expected)
        if survived:
            self._killed = 0
            return answers
        if len(arguments) > 1:
            # One of them ended the process, and the others are called again without it.
            return [self._answers(number, [own], [count])[0] for own, count in zip(arguments, expected, strict=True)]
        self._killed += 1
        if self._killed >= MOST_KILLED:
            raise JudgeUnavailable(
                f"the last {MOST_KILLED} calls of the Python function each ended its process: {answers[0][0].error}"
            )
        return answers


def _arguments(call: _Call, names: Sequence[str], function: FunctionConfig, description: Description) -> dict[str, Any]:
    """Return the keyword arguments of a call. A column that a row lacks is None."""
    samples, is_text = call.samples, function.form == "text"
    first = samples[0]
    prompts = [sample.messages[-1]["content"] if is_text else sample.messages for sample in samples]
    texts = [sample.response for sample in samples]
    columns = [name for name in names if name not in OWN_NAMES]
    given: dict[str, Any]
    if description.form == BATCH:
        completions = texts if is_text else [[{"role": "assistant", "content": text}] for text in texts]
        own: dict[str, Any] = {"prompts": prompts, "completions": completions}
        own["completion_ids"] = [None if each.token_ids is None else list(each.token_ids) for each in samples]
        given = {name: [sample.columns.get(name) for sample in samples] for name in columns}
    else:
        own = {"prompt": prompts[0]}
        own |= {"responses": texts} if description.form == GROUP else {"response": texts[0]}
        given = {name: first.columns.get(name) for name in columns}
    return given | function.arguments | own


class _Known:
    """Scores that outlive a killed run, so that no call is made twice for one judging."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._scores = dict(self._read())

    def __contains__(self, key: str) -> bool:
        return key in self._scores

    def __getitem__(self, key: str) -> Score:
        return self._scores[key]

    def keep(self, scores: dict[str, Score]) -> None:
        """Keep the scores that are not errors."""
        valid = {key: score.value for key, score in scores.items() if not score.error}
        if not valid:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps([key, value]) + "\n" for key, value in valid.items()))
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> Iterator[tuple[str, Score]]:
        if not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError):  # the last line of a killed run may be cut
                key, value = json.loads(line)
                yield key, Score(value)
