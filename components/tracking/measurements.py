"""Compute the metrics of a round and of a campaign as points; repeating it gives the same points."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow.entities import Metric

from components.judges.function_scores import FunctionScores
from components.judges.violations import Violations
from components.records import Interval, RoundRecord
from components.tracking.facts import RoundFacts

_AXES = {"step", "epoch", "time"}
_SAMPLE_AXES = {"time", "seconds", "rank"}


def step_points(facts: RoundFacts) -> list[Metric]:
    """Return the training curves: every number of metrics.jsonl, at its optimizer step and with its own time."""
    points = []
    for line in (facts.directory / "dpo_train" / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        names = [name for name in row if name not in _AXES and row[name] is not None]
        points += [Metric(name, float(row[name]), round(row["time"] * 1000), row["step"]) for name in names]
    return points


def system_points(facts: RoundFacts) -> list[Metric]:
    """Return the machine's load during training, under the keys that MLflow's page of system metrics expects.

    Each sample of a rank is one step. Several ranks are named as MLflow names several nodes:
    `system/rank_1/cpu_utilization_percentage`. Rounds of earlier versions have no samples.
    """
    path = facts.directory / "dpo_train" / "system.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    many_ranks = len({row["rank"] for row in rows}) > 1
    num_samples: Counter[int] = Counter()
    points = []
    for row in rows:
        prefix = f"system/rank_{row['rank']}" if many_ranks else "system"
        values = {name: value for name, value in row.items() if name not in _SAMPLE_AXES}
        points += [
            Metric(f"{prefix}/{name}", value, round(row["time"] * 1000), num_samples[row["rank"]])
            for name, value in values.items()
        ]
        num_samples[row["rank"]] += 1
    return points


def campaign_points(facts: RoundFacts) -> list[Metric]:
    """Return one point per curve of the campaign, at step = round."""
    return _points(facts, _summary(facts), step=facts.record.round)


def round_points(facts: RoundFacts) -> list[Metric]:
    """Return the metrics that were measured once in the round.

    A plain name is the challenger's; `/low`, `/high`, `/start` and `/champion` are suffixes of related values.
    """
    details = dict(_evaluation(facts)) | dict(_data(facts)) | dict(_judge(facts)) | dict(_people(facts))
    details |= dict(_feedback(facts))
    details |= {f"seconds/{stage}": seconds for stage, seconds in facts.record.seconds.items()}
    details |= {
        f"peak_memory_mb/{stage}": manifest.peak_memory_bytes / 2**20 for stage, manifest in facts.manifests.items()
    }
    # MLflow's pages draw a metric as bars, one per run, if it is not logged past step 0 anywhere. The metrics that the
    # campaign draws as a curve by round are logged at their round here too, so that both are in one chart.
    return campaign_points(facts) + _points(facts, details, step=0)


def _points(facts: RoundFacts, values: Mapping[str, float | None], *, step: int) -> list[Metric]:
    # Absence is never data: a judge that gives no scores has no mean reward, and so no point.
    # MLflow's table of runs shows every digit, and six places are more than the precision of any of these.
    return [
        Metric(name, round(float(value), 6), facts.files.ended_ms, step)
        for name, value in values.items()
        if value is not None
    ]


def _summary(facts: RoundFacts) -> dict[str, float | None]:
    record = facts.record
    return {
        "win_rate_vs_start": record.win_rate_vs_start.value,
        "win_rate_vs_champion": record.win_rate_vs_champion.value,
        "kl_to_start": record.kl_to_start,
        "mean_tokens": record.mean_tokens,
        "mean_reward": record.mean_reward,
        "num_pairs": record.num_pairs,
        "promoted": record.promoted,
        **{name: interval.value for name, interval in _length_controlled(record).items()},
        **_evidence(record),
        **_diversity(facts),
        **_agreements(record),
        **_data_checks(facts),
        "seconds": sum(record.seconds.values()),
    }


def _diversity(facts: RoundFacts) -> dict[str, float | None]:
    """Return the diversity of the round's samples; a round that sampled none, or of an earlier version, has none."""
    measured = (facts.files.generated or {}).get("diversity") or {}
    return {f"samples/{name}": value for name, value in measured.items()}


def _agreements(record: RoundRecord) -> dict[str, float | None]:
    """Return how often people agree, and judges with them; nothing for a round without people."""
    if record.people is None:
        return {}
    among = record.people.agreement
    judges = {f"people/{_key(name)}/agreement": interval.value for name, interval in record.people.judges.items()}
    return {"people/agreement": None if among is None else among.value, **judges}


def _data_checks(facts: RoundFacts) -> dict[str, float | None]:
    """Return what the data checks measured, and how many are above their limits.

    None if they are off; rounds of earlier versions had none. A check that was skipped measured nothing.
    """
    checks = (facts.files.validated or {}).get("checks")
    if not checks:
        return {}
    verdicts = Counter(check["verdict"] for check in checks)
    counts = {"checks/warnings": verdicts["warn"], "checks/failures": verdicts["fail"]}
    return counts | {f"checks/{check['name']}": check["share"] for check in checks}


def _length_controlled(record: RoundRecord) -> dict[str, Interval]:
    """Return the win rates at equal length; none for a round of an earlier version."""
    rates = {
        "length_controlled_win_rate_vs_start": record.length_controlled_win_rate_vs_start,
        "length_controlled_win_rate_vs_champion": record.length_controlled_win_rate_vs_champion,
    }
    return {name: rate for name, rate in rates.items() if rate is not None}


def _evidence(record: RoundRecord) -> dict[str, float | None]:
    """Return what the gate's test staked and found, and the champion's win rates of an audit."""
    evidence, audit = record.evidence, record.audit
    measures: dict[str, float | None] = {}
    if evidence is not None:
        measures |= {"gate/level": evidence.level, "gate/e_value": evidence.e_value, "gate/judged": evidence.num_judged}
    if audit is not None:
        earlier = audit.win_rate_vs_earlier
        measures |= {"audit/win_rate_vs_start": audit.win_rate_vs_start.value}
        measures |= {"audit/win_rate_vs_earlier": None if earlier is None else earlier.value}
    return measures


def _evaluation(facts: RoundFacts) -> Iterator[tuple[str, float | None]]:
    record = facts.record
    evaluation = facts.files.read("evaluate", "evaluation.json")
    assert evaluation is not None, facts.directory
    intervals = {
        "win_rate_vs_start": record.win_rate_vs_start,
        "win_rate_vs_champion": record.win_rate_vs_champion,
        "kl_to_start": Interval.model_validate(evaluation["kl_to_start_interval"]),
        **_length_controlled(record),
    }
    for name, interval in intervals.items():
        yield f"{name}/low", interval.low
        yield f"{name}/high", interval.high
    for name in ("mean_reward", "mean_tokens"):
        for policy in ("start", "champion"):
            yield f"{name}/{policy}", None if evaluation[name] is None else evaluation[name][policy]
    for name in ("empty_share", "unfinished_share"):
        yield name, evaluation[name]["challenger"]
    # Rounds of earlier versions did not measure these.
    for policy, values in evaluation.get("diversity", {}).items():
        for name, value in values.items():
            yield name if policy == "challenger" else f"{name}/{policy}", value
    for part, value in (evaluation.get("unfinished_increase") or {}).items():
        if part != "n":
            yield "unfinished_increase" if part == "value" else f"unfinished_increase/{part}", value
    for rule, shares in evaluation.get("violations", {}).items():  # rounds of earlier versions did not measure it
        yield f"violations/{_key(rule)}", shares["challenger"]
    for function, means in evaluation.get("functions", {}).items():  # only of a judge of several functions
        yield f"functions/{_key(function)}", means["challenger"]
    for name in ("invalid_share", "reward_accuracy", "reward_margin"):
        yield name, evaluation[name]


def _data(facts: RoundFacts) -> Iterator[tuple[str, float | None]]:
    validation = facts.files.read("validate_data", "validation.json")
    training = facts.files.read("dpo_train", "train.json")
    assert validation is not None, facts.directory
    assert training is not None, facts.directory
    for name, key in {
        "num_eval_pairs": "eval",
        "quarantined": "quarantined",
        "quarantine_share": "quarantine_share",
    }.items():
        yield name, validation[key]
    yield "eval_loss", None if training["eval"] is None else training["eval"]["loss"]
    collected = facts.files.read("collect_preferences", "collect.json")
    if collected is not None:
        yield "ties", collected["ties"]
        yield "invalid_verdicts", collected["invalid_verdicts"]
        # Rounds of earlier versions had no costly judge, no constitution and no revisions.
        for name in ("asked", "agreed", "flipped") if collected.get("active") else ():
            yield f"costly/{name}", collected["active"][name]
        for principle, counts in collected.get("violations", {}).items():
            yield f"response_violations/{_key(principle)}", Violations.model_validate(counts).rate
        for function, counts in collected.get("functions", {}).items():  # only of a judge of several functions
            yield f"response_functions/{_key(function)}", FunctionScores.model_validate(counts).mean
        for outcome, responses in (collected.get("revisions") or {}).items():
            yield f"revisions/{outcome}", responses


def _judge(facts: RoundFacts) -> Iterator[tuple[str, float | None]]:
    """Yield the health of the judges of the pairs and of the held-out comparison, and the usage of their endpoints.

    Rounds of earlier versions did not measure them.
    """
    for prefix, stage, file in (
        ("judge", "collect_preferences", "collect.json"),
        ("evaluation_judge", "evaluate", "evaluation.json"),
    ):
        health = (facts.files.read(stage, file) or {}).get("judge_health")
        if health is not None:
            yield from _health_points(prefix, health)
        for name, number in (facts.files.judge_usage(stage) or {}).items():
            yield f"{prefix}/{name}", number


def _people(facts: RoundFacts) -> Iterator[tuple[str, float | None]]:
    """Yield what is known of the people's votes, without the people's names."""
    people = facts.files.people
    if people is None:
        return
    for name in ("asked", "labelled", "both_bad", "flagged", "krippendorff_alpha"):
        yield f"people/{name}", people[name]
    yield "people/annotators", len(people["annotators"])
    agreements = {"people/agreement": people["agreement"]}
    for name, judge in people["judges"].items():
        yield f"people/{_key(name)}/cohen_kappa", judge["cohen_kappa"]
        agreements[f"people/{_key(name)}/agreement"] = judge["agreement"]
    for name, agreement in agreements.items():
        if agreement is not None:
            yield f"{name}/low", agreement["low"]
            yield f"{name}/high", agreement["high"]


def _feedback(facts: RoundFacts) -> Iterator[tuple[str, float]]:
    """Yield what became of the thumbs that the round looked at."""
    feedback = facts.files.feedback
    if feedback is None:
        return
    for name in ("taken", "up", "down", "correction", "quarantined", "waiting"):
        yield f"feedback/{name}", feedback[name]
    yield "feedback/left_out", sum(feedback["left_out"].values())
    yield "feedback/offered", sum(feedback["offered"].values())


def _health_points(prefix: str, health: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for name, measured in health.items():
        if name == "parts":
            for part, values in measured.items():
                yield from _health_points(f"{prefix}/{_key(part)}", values)
        elif isinstance(measured, dict):
            yield f"{prefix}/{name}", measured["value"]
            yield f"{prefix}/{name}/low", measured["low"]
            yield f"{prefix}/{name}/high", measured["high"]
        else:
            yield f"{prefix}/{name}", measured


def _key(name: str) -> str:
    """Replace the characters of a juror's or principle's name that MLflow does not allow in a metric's key."""
    return re.sub(r"[^\w.:-]", "_", name, flags=re.ASCII)
