"""A sample of what a judge that compares said, as traces on MLflow's page.

The two answers, each order or juror, and the conclusion.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run

from components.artifacts import read_table
from components.judges.protocol import Verdict
from components.preferences.tables import VERDICTS, read_verdicts
from components.tracking.contents import readable
from components.tracking.facts import RoundFacts

MAX_COMPARISONS = 20
"""Comparisons of a round that become traces; verdicts.parquet has them all."""
ROUND, VERDICT = "round", "verdict"


@dataclass(frozen=True)
class TracedComparison:
    """Two answers to a prompt, and all that was said of them."""

    conclusion: Verdict
    parts: tuple[Verdict, ...]
    prompt: str
    texts: dict[int, str]
    """By sample_id."""

    @property
    def shown(self) -> dict[str, Any]:
        """What was judged."""
        assert self.conclusion.opponent_id is not None
        first, second = self.conclusion.sample_id, self.conclusion.opponent_id
        return {"prompt": self.prompt, f"answer {first}": self.texts[first], f"answer {second}": self.texts[second]}


def comparisons(facts: RoundFacts) -> list[TracedComparison]:
    """A sample of the round's comparisons that were made of parts, the same at every call.

    None of a judge that scores.
    """
    place = facts.directory / "collect_preferences" / VERDICTS
    if not place.exists():
        return []
    parts: defaultdict[tuple[str, frozenset[int | None]], list[Verdict]] = defaultdict(list)
    concluded: list[Verdict] = []
    for verdict in read_verdicts(read_table(place)):
        if verdict.opponent_id is not None:
            key = verdict.prompt_id, frozenset((verdict.sample_id, verdict.opponent_id))
            (parts[key] if verdict.part else concluded).append(verdict)
    made = [
        (verdict, parts.get((verdict.prompt_id, frozenset((verdict.sample_id, verdict.opponent_id))), []))
        for verdict in concluded
    ]
    # A verdict's id is a hash, so the first by id are a sample.
    sampled = sorted(((verdict, of) for verdict, of in made if of), key=lambda one: one[0].verdict_id)[:MAX_COMPARISONS]
    if not sampled:
        return []
    generated = facts.directory / "generate_responses"
    prompts, responses = read_table(generated / "prompts.parquet"), read_table(generated / "responses.parquet")
    asked = dict(zip(prompts["prompt_id"], prompts["messages"], strict=True))
    texts: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for prompt_id, sample_id, text in zip(
        responses["prompt_id"], responses["sample_id"], responses["text"], strict=True
    ):
        texts[prompt_id][int(sample_id)] = text
    return [
        TracedComparison(verdict, tuple(of), readable(asked[verdict.prompt_id]), texts[verdict.prompt_id])
        for verdict, of in sampled
    ]


def add_traces(client: MlflowClient, run: Run, made: Sequence[TracedComparison], *, round: int, at_ms: int) -> None:
    """Adds the comparisons that have no trace yet, and links all to the run.

    Args:
        client: Of the store.
        run: The round's.
        made: The sample.
        round: Number of the round.
        at_ms: Unix time that the traces get: when the stage was published.
    """
    if not made:
        return
    # MLflow sends traces to the store that was named when it made the first one.
    mlflow.tracing.reset()
    experiment = run.info.experiment_id
    found = client.search_traces(
        locations=[experiment],
        filter_string=f"tags.{ROUND} = '{round}'",
        max_results=MAX_COMPARISONS,
        include_spans=False,
    )
    known = {trace.info.tags[VERDICT]: trace.info.trace_id for trace in found}
    for comparison in made:
        name = comparison.conclusion.verdict_id
        if name not in known:
            known[name] = _add(client, comparison, experiment, {ROUND: str(round), VERDICT: name}, at_ms * 1_000_000)
            # Sending a trace raises nothing when it fails; asking for it does.
            client.get_trace(known[name])
    client.link_traces_to_run(list(known.values()), run.info.run_id)


def _add(client: MlflowClient, comparison: TracedComparison, experiment: str, tags: dict[str, str], at_ns: int) -> str:
    conclusion = comparison.conclusion
    name = conclusion.judge
    root = client.start_trace(name, inputs=comparison.shown, tags=tags, experiment_id=experiment, start_time_ns=at_ns)
    for part in comparison.parts:
        order = {"first": f"answer {part.sample_id}", "second": f"answer {part.opponent_id}"}
        span = client.start_span(part.part, root.trace_id, root.span_id, inputs=order, start_time_ns=at_ns)
        client.end_span(root.trace_id, span.span_id, outputs=_said(part), end_time_ns=at_ns)
    client.end_trace(root.trace_id, outputs=_said(conclusion), end_time_ns=at_ns)
    return str(root.trace_id)


def _said(verdict: Verdict) -> dict[str, Any]:
    """What a verdict says; the score is the probability that the first answer is better."""
    return {"score": verdict.score, "status": verdict.status, "detail": verdict.detail}
