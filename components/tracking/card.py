"""Write the text of the model card of a round's challenger, in the form of the Hugging Face hub.

The card is written when the round is recorded, because the gate decides after the weights are published. Saves no file
and knows no MLflow.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from components.artifacts import read_json
from components.judges.registry import describe_judge
from components.records import Interval, JudgeRef
from components.report.round import escape_markdown
from components.report.wording import count, decimal, model_name, share
from components.tracking.facts import RoundFacts, lineage

CARD = "README.md"
MAX_DESCRIPTION = 5000
"""Largest number of characters that MLflow's registry keeps of a version's description."""


def card(facts: RoundFacts, *, model_id: str, kind: str) -> str:
    """Return the card as a file: front matter, then markdown.

    Args:
        facts: The round.
        model_id: MLflow's id of the logged model, for the card's code that loads it.
        kind: `model` or `adapter`.
    """
    title = f"# {facts.campaign}, round {facts.record.round}"
    return f"---\n{_front_matter(facts, kind)}---\n\n{title}\n\n{_body(facts, model_id)}"


def version_description(facts: RoundFacts, *, model_id: str) -> str:
    """Return the card's text for the registry's page of the version, cut to `MAX_DESCRIPTION` characters."""
    text = _body(facts, model_id)
    rest = f"\n\n… the whole card is {CARD} among the model's files."
    return text if len(text) <= MAX_DESCRIPTION else text[: MAX_DESCRIPTION - len(rest)] + rest


def _body(facts: RoundFacts, model_id: str) -> str:
    sections = {
        "Measured": _measured(facts),
        "Gate": _gate(facts),
        "Made from": _made_from(facts),
        "Load it": _loading(facts, model_id),
        "Limits": _limits(facts),
        "Lineage": "\n".join(
            f"- {name}: `{value}`"
            for name, value in lineage(facts).items()
            if name.endswith(("digest", "sha", "judge"))
        ),
    }
    return "\n\n".join([_summary(facts), *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def _summary(facts: RoundFacts) -> str:
    # The verdict first: the registry's list of versions shows some fifteen letters.
    verdict = "Promoted to champion" if facts.record.promoted else "Refused"
    return (
        f"{verdict} in round {facts.record.round} of campaign `{facts.campaign}`: a language model trained by Direct "
        f"Preference Optimization from {_parent(facts)}, and compared with the champion of that time on held-out "
        "prompts."
    )


def _front_matter(facts: RoundFacts, kind: str) -> str:
    name, trained = facts.config["policy"]["model"], facts.files.read("dpo_train", "train.json")
    assert trained is not None, facts.directory
    # The hub refuses a base model that is not a name on the hub, such as a directory. Nor is it the base of an adapter
    # that was trained on an earlier round's weights.
    on_hub = _on_hub(facts, name) and not (kind == "adapter" and trained.get("base_round"))
    base = {"base_model": name, "base_model_relation": "adapter" if kind == "adapter" else "finetune"} if on_hub else {}
    content = base | {
        "library_name": "peft" if kind == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["dpo", "ratchet", facts.campaign],
    }
    return str(yaml.safe_dump(content, sort_keys=False))


def _on_hub(facts: RoundFacts, name: str) -> bool:
    """Return whether the start model came from the hub under this name: its path in the hub's cache shows it."""
    return f"models--{name.replace('/', '--')}" in Path(_start(facts)["model"]["base"]).parts


def _start(facts: RoundFacts) -> dict[str, Any]:
    return read_json(facts.start_directory / "start.json")


def _measured(facts: RoundFacts) -> str:
    # Lists, because MLflow's pages draw a table's columns without any space between them.
    record, evaluation = facts.record, facts.files.read("evaluate", "evaluation.json")
    assert evaluation is not None, facts.directory
    level = facts.config["evaluation"]["confidence"]
    divergence = Interval.model_validate(evaluation["kl_to_start_interval"])
    lines = [
        f"wins against the champion of that time: {_estimate(record.win_rate_vs_champion, 3, level)}",
        f"wins against the start model: {_estimate(record.win_rate_vs_start, 3, level)}",
        f"KL to the start, nats per response: {_estimate(divergence, 2, level)}",
    ]
    if evaluation["mean_reward"] is not None:
        lines.append(f"mean score: {_beside_others(evaluation['mean_reward'], lambda value: decimal(value, 3))}")
    lines += [
        f"mean tokens: {_beside_others(evaluation['mean_tokens'], lambda value: decimal(value, 1))}",
        f"empty answers: {_beside_others(evaluation['empty_share'], share)}",
        f"unfinished answers: {_beside_others(evaluation['unfinished_share'], share)}",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _estimate(interval: Interval, places: int, level: float) -> str:
    value, low, high = (decimal(number, places) for number in (interval.value, interval.low, interval.high))
    return f"**{value}** ({100 * level:g} % interval {low} to {high}, {count(interval.n)} prompts)"


def _beside_others(values: dict[str, float], form: Callable[[float], str]) -> str:
    return f"**{form(values['challenger'])}** (champion {form(values['champion'])}, start {form(values['start'])})"


def _gate(facts: RoundFacts) -> str:
    verdict = (
        "**Promoted**: it replaced the champion." if facts.record.promoted else "**Refused**: the champion stayed."
    )
    return "\n".join([verdict, "", *(f"- {escape_markdown(reason)}" for reason in facts.record.reasons)])


def _made_from(facts: RoundFacts) -> str:
    trained, training = facts.files.read("dpo_train", "train.json"), facts.config["training"]
    assert trained is not None, facts.directory
    adapter = _adapter(facts)
    weights = "all weights" if adapter == "none" else f"an adapter ({adapter})"
    return "\n".join(
        [
            f"- start model: {_start_model(facts)}; this round began from {_parent(facts)}",
            f"- data: {_data(facts, trained['num_pairs'])}",
            f"- judge of the pairs: {'none' if _shown(facts) else _judge(facts, 'judge')}",
            f"- training: {weights}, {training['loss']} loss, beta {training['beta']:g}, "
            f"learning rate {training['learning_rate']:g}, {count(trained['num_steps'])} steps of "
            f"{training['pairs_per_step']} pairs, {trained['dtype']}; reference: `{facts.config['reference']}`",
        ]
    )


def _parent(facts: RoundFacts) -> str:
    trained = facts.files.read("dpo_train", "train.json")
    assert trained is not None, facts.directory
    return model_name(
        max(
            (number for number, record in facts.known.items() if record.policy_digest == trained["start_digest"]),
            default=0,
        )
    )


def _start_model(facts: RoundFacts) -> str:
    policy = facts.config["policy"]
    trained = ", trained on demonstrations first" if "sft" in _start(facts) else ""
    if policy["model"] == "builtin":
        return f"`builtin`, the small starter that comes with Ratchet{trained}"
    return f"`{policy['model']}`{_revision(facts)}{trained}"


def _data(facts: RoundFacts, num_pairs: int) -> str:
    validation, preferences = facts.files.read("validate_data", "validation.json"), facts.config["preferences"]
    assert validation is not None, facts.directory
    replayed = (
        f", {count(validation['replayed'])} of the checked pairs replayed from earlier rounds"
        if validation["replayed"]
        else ""
    )
    if _shown(facts):
        shown = f"demonstrations of `{preferences['demonstrations']}` over answers sampled from {_parent(facts)}"
        source = f"{shown} and, before it, from earlier rounds" if preferences["pairs"] == "ditto" else shown
    elif "generate_responses" in facts.manifests:
        source = f"answers sampled from {_parent(facts)} on prompts of `{facts.config['prompts']['train']}`"
    else:
        source = f"answers of the data set `{preferences['seed_pairs']}`"
    return f"{count(num_pairs)} pairs of {source}{replayed}"


def _shown(facts: RoundFacts) -> bool:
    """Return whether the round's pairs were built from demonstrations."""
    return "demonstrations" in (facts.files.collected or {})


def _revision(facts: RoundFacts) -> str:
    policy = facts.config["policy"]
    return f" at `{policy['revision']}`" if _on_hub(facts, policy["model"]) else ""


def _judge(facts: RoundFacts, role: str) -> str:
    judge = _judge_ref(facts, role).config
    kind, _, name = describe_judge(judge).partition(":")
    return (
        f"the rule `{name}`"
        if kind == "rule"
        else f"`{name}` ({kind.replace('_', ' ')})"
        if name
        else f"a {kind.replace('_', ' ')}"
    )


def _judge_ref(facts: RoundFacts, role: str) -> JudgeRef:
    return JudgeRef.model_validate(_start(facts)[role])


def _adapter(facts: RoundFacts) -> str:
    trained, rank = facts.files.read("dpo_train", "train.json"), facts.config["lora"]["rank"]
    assert trained is not None, facts.directory
    # Rounds of earlier versions trained LoRA or all weights, and did not write which.
    return str(trained.get("adapter") or (f"lora of rank {rank}" if rank else "none"))


def _loading(facts: RoundFacts, model_id: str) -> str:
    """Return the code that loads the model, and what a request must hold besides the user's messages."""
    system_prompt = facts.config["policy"].get("system_prompt")  # rounds of earlier versions have none
    led = "" if not system_prompt else "\n\nIt was trained with this system message, so send it with every request:\n\n"
    return _code(facts, model_id) + led + "\n".join(f"> {line}" for line in (system_prompt or "").splitlines())


def _code(facts: RoundFacts, model_id: str) -> str:
    kind = _adapter(facts)
    adapter = (
        ""
        if kind == "none"
        else "\n\nThe files are an adapter: loading it needs `peft`, and the base model at its original path."
    )
    if kind.endswith("tokens"):  # transformers itself loads no virtual tokens
        return f"""```python
import mlflow
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

path = mlflow.artifacts.download_artifacts("models:/{model_id}")
model, tokenizer = AutoPeftModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
```

`models:/{facts.campaign}@champion` is whichever round is the champion now.{adapter}"""
    return f"""```python
import mlflow
from transformers import AutoModelForCausalLM, AutoTokenizer

path = mlflow.artifacts.download_artifacts("models:/{model_id}")
model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
```

`models:/{facts.campaign}@champion` is whichever round is the champion now.{adapter}"""


def _limits(facts: RoundFacts) -> str:
    judge, evaluator = _judge_ref(facts, "judge"), _judge_ref(facts, "evaluation_judge")
    if judge.digest == evaluator.digest:
        judged = (
            f"{_judge(facts, 'judge')} judged both the training pairs and this comparison. The win rates show how well "
            "the model pleases that judge; they cannot tell this from having learned to please its mistakes"
        )
    else:
        judged = f"{_judge(facts, 'evaluation_judge')} judged the comparison; it did not judge the training pairs"
    num_prompts, temperature = facts.record.win_rate_vs_champion.n, facts.config["evaluation"]["temperature"]
    limits = [
        f"Who judged: {judged}. No person read the answers.",
        f"The comparison is on {num_prompts} held-out prompts like those trained on, sampled at temperature "
        f"{temperature:g}. It says nothing about other kinds of prompts, facts, or safety.",
        "The intervals cover the choice of prompts, not the randomness of training: this is one run with one seed.",
        "The restrictions of the start model's licence, and the start model's errors, may apply to this model too.",
    ]
    return "\n".join(f"- {limit}" for limit in limits)
