"""Show a sample of a comparing judge's verdicts as traces in MLflow: the two answers, the parts and the conclusion.

A part is one order of the answers, one juror, or one person, who is numbered.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run

from components.artifacts import read_table
from components.config import TrackingConfig
from components.judges.protocol import Verdict
from components.preferences.tables import VERDICTS, read_verdicts
from components.tracking.contents import readable
from components.tracking.facts import RoundFacts
from components.tracking.persons import nameless_verdict, numbers

MAX_COMPARISONS = 20
"""Largest number of a round's comparisons that become traces; verdicts.parquet has all of them."""
ROUND, VERDICT = "round", "verdict"


@dataclass(frozen=True)
class TracedComparison:
    """Two answers to a prompt, and all verdicts on them."""

    conclusion: Verdict
    parts: tuple[Verdict, ...]
    prompt: str
    texts: dict[int, str]
    """Texts of the answers by sample_id."""

    @property
    def shown(self) -> dict[str, Any]:
        """The prompt and the two answers."""
        assert self.conclusion.opponent_id is not None
        first, second = self.conclusion.sample_id, self.conclusion.opponent_id
        return {"prompt": self.prompt, f"answer {first}": self.texts[first], f"answer {second}": self.texts[second]}


def comparisons(facts: RoundFacts, tracking: TrackingConfig) -> list[TracedComparison]:
    """Return a sample of the round's comparisons that consist of parts; every call returns the same sample.

    It is empty for a judge that scores, and without texts.
    """
    path = facts.directory / "collect_preferences" / VERDICTS
    if not (tracking.texts and path.exists()):
        return []
    parts: defaultdict[tuple[str, frozenset[int | None]], list[Verdict]] = defaultdict(list)
    conclusions: list[Verdict] = []
    for verdict in read_verdicts(read_table(path)):
        if verdict.opponent_id is not None:
            key = verdict.prompt_id, frozenset((verdict.sample_id, verdict.opponent_id))
            (parts[key] if verdict.part else conclusions).append(verdict)
    judged = [
        (verdict, parts.get((verdict.prompt_id, frozenset((verdict.sample_id, verdict.opponent_id))), []))
        for verdict in conclusions
    ]
    # A verdict's id is a hash, so the first comparisons by id are a random sample.
    with_parts = [(verdict, own_parts) for verdict, own_parts in judged if own_parts]
    sample = sorted(with_parts, key=lambda comparison: comparison[0].verdict_id)[:MAX_COMPARISONS]
    if not sample:
        return []
    generated = facts.directory / "generate_responses"
    prompts, responses = read_table(generated / "prompts.parquet"), read_table(generated / "responses.parquet")
    messages = dict(zip(prompts["prompt_id"], prompts["messages"], strict=True))
    texts: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for prompt_id, sample_id, text in zip(
        responses["prompt_id"], responses["sample_id"], responses["text"], strict=True
    ):
        texts[prompt_id][int(sample_id)] = text
    people = numbers(facts.files.people)
    return [
        TracedComparison(
            verdict,
            tuple(nameless_verdict(part, people) for part in own_parts),
            readable(messages[verdict.prompt_id]),
            texts[verdict.prompt_id],
        )
        for verdict, own_parts in sample
    ]


def add_traces(client: MlflowClient, run: Run, sample: Sequence[TracedComparison], *, round: int, at_ms: int) -> None:
    """Add a trace for each comparison that has none yet, and link all traces to the run.

    Args:
        client: Client of the store.
        run: The round's run.
        sample: The comparisons.
        round: Number of the round.
        at_ms: Unix time of the traces, in ms: when the stage was published.
    """
    if not sample:
        return
    # MLflow sends all traces to the store that was configured at the first one.
    mlflow.tracing.reset()
    experiment = run.info.experiment_id
    traces = client.search_traces(
        locations=[experiment],
        filter_string=f"tags.{ROUND} = '{round}'",
        max_results=MAX_COMPARISONS,
        include_spans=False,
    )
    trace_ids = {trace.info.tags[VERDICT]: trace.info.trace_id for trace in traces}
    for comparison in sample:
        name = comparison.conclusion.verdict_id
        if name not in trace_ids:
            tags = {ROUND: str(round), VERDICT: name}
            trace_ids[name] = _add(client, comparison, experiment, tags, at_ms * 1_000_000)
            # A failure to send a trace raises no error; reading the trace does.
            client.get_trace(trace_ids[name])
    client.link_traces_to_run(list(trace_ids.values()), run.info.run_id)


def _add(client: MlflowClient, comparison: TracedComparison, experiment: str, tags: dict[str, str], at_ns: int) -> str:
    conclusion = comparison.conclusion
    name = conclusion.judge
    root = client.start_trace(name, inputs=comparison.shown, tags=tags, experiment_id=experiment, start_time_ns=at_ns)
    for part in comparison.parts:
        order = {"first": f"answer {part.sample_id}", "second": f"answer {part.opponent_id}"}
        span = client.start_span(part.part, root.trace_id, root.span_id, inputs=order, start_time_ns=at_ns)
        client.end_span(root.trace_id, span.span_id, outputs=_outputs(part), end_time_ns=at_ns)
    client.end_trace(root.trace_id, outputs=_outputs(conclusion), end_time_ns=at_ns)
    return str(root.trace_id)


def _outputs(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as a span's outputs; the score is the probability that the first answer is better."""
    return {"score": verdict.score, "status": verdict.status, "detail": verdict.detail}
