"""What demonstrations are worth on the built-in world: SFT, DITTO with eight of them, SPIN with many.

For each seed, eight good replies to customers are drawn from the corpus. `sft` and `sft_short` are trained on the
eight; `ditto` and `ditto_short` begin from them and go on for some rounds with the pairs that `preferences.pairs:
ditto` builds, measured against them. `spin` begins from the start model and has many demonstrations; `sft_many` is
trained on the same ones. There is no gate: each
round continues the last one, as in the papers. All are compared on held-out prompts, by the exact rule.

Writes `demonstrations.json` and `demonstrations.png` into `runs/bench`.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from measuring import conditions, interval_of_mean, write_result
from one_round import LIMITS, HeldOut, sampled, start, trained, training, wins

from components.builtin.world import corpus, support_reply
from components.config import PreferencesConfig, SftConfig, TrainingConfig
from components.data.content import HeldOutContents, content_key
from components.data.messages import Messages
from components.data.prompts import prompt_id
from components.judges.protocol import Group
from components.models.loading import load_tokenizer, start_ref
from components.models.tokens import ChatTokenizer
from components.preferences.demonstrated_pairs import Demonstrations, EarlierAnswers, build_demonstrated
from components.records import Artifact, ModelRef, SftRequest
from components.sft import stage as sft
from components.validation.held_out import evaluation_prompts
from components.validation.semantics import encode

FEW, MANY = 8, 256
GOOD = 4.5
"""Least score of a demonstration; the best have 5.9."""
SFT: dict[str, dict[str, Any]] = {
    "sft": {"learning_rate": 3e-4, "epochs": 8, "rows_per_step": 4},
    "sft_short": {"learning_rate": 1e-4, "epochs": 16, "rows_per_step": 4},
    "sft_many": {"learning_rate": 3e-4, "epochs": 4, "rows_per_step": 16},
}
"""`sft` was chosen for SFT on seed 1, among rates of 3e-5 to 1e-3 and 2 to 24 epochs, so that SFT is not held back."""
HELD_OUT, HELD_OUT_SAMPLES = 192, 4


class Rounds(NamedTuple):
    """How an arm learns from pairs."""

    begins_from: str
    """Arm that it continues; empty begins from the start model."""
    pairs: str
    number: int
    samples: int
    config: TrainingConfig


ROUNDS = {
    "ditto": Rounds("sft", "ditto", 6, 10, training(learning_rate=3e-5, epochs=2, beta=0.5)),
    "ditto_short": Rounds("sft_short", "ditto", 2, 10, training(learning_rate=1e-4, epochs=2)),
    "spin": Rounds("", "spin", 3, 2, training(learning_rate=5e-5, epochs=2)),
}
"""The best ways on seed 1: of DITTO among rates of 3e-5 to 3e-4, betas of 0.05 to 0.5 and up to six rounds, of SPIN
among four. After more than two rounds `ditto_short` broke down, which the gate of a campaign would refuse."""
AGAINST = {"ditto": "sft", "ditto_short": "sft", "spin": "sft_many"}
"""The SFT that an arm has to beat."""
ARMS = (*SFT, *ROUNDS)
TITLES = {
    "sft": f"SFT\n{FEW}",
    "ditto": f"DITTO\n{FEW}",
    "sft_short": f"short SFT\n{FEW}",
    "ditto_short": f"DITTO of it\n{FEW}",
    "sft_many": f"SFT\n{MANY}",
    "spin": f"SPIN\n{MANY}",
}


class Demonstrated(NamedTuple):
    """A prompt and a good reply to it."""

    messages: Messages
    reply: str


def main() -> None:
    """Train every arm for each seed and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    options = parser.parse_args()
    before = conditions()
    samples = []
    for seed in options.seeds:
        samples.append(measured(seed, arms=options.arms))
        sys.stdout.write(f"{json.dumps(samples[-1])}\n")
        sys.stdout.flush()
        write_result(options.out / "demonstrations.json", before=before, summary=summarised(samples), samples=samples)
    draw(samples, options.out / "demonstrations.png")
    sys.stdout.write(f"{json.dumps(summarised(samples), indent=1)}\n")


def summarised(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over the seeds with their intervals; one seed has none."""
    names = [name for name in samples[0] if name != "seed"]
    if len(samples) == 1:
        return {name: samples[0][name] for name in names}
    return {name: interval_of_mean([sample[name] for sample in samples]) for name in names}


def measured(seed: int, *, held_out: int = HELD_OUT, arms: Sequence[str] = ARMS) -> dict[str, float]:
    """Return the win rates of one seed's policies, and of DITTO and SPIN against the best SFT on the same ones.

    Args:
        seed: Of the draw, the sampling and the trainings.
        held_out: Held-out prompts of the comparison.
        arms: Those of `ARMS` that are trained, with those that they need.
    """
    policy, (good, others) = start(), good_replies(seed)
    compared = HeldOut(policy, number=held_out, samples=HELD_OUT_SAMPLES, seed=seed)
    models = {"": policy}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in (name for name in SFT if name in arms):
            shown = good[: MANY if name == "sft_many" else FEW]
            models[name] = sft_on(shown, others, policy, place / name, seed=seed, **SFT[name])
        for name in (name for name in ROUNDS if name in arms):
            shown, way = good[: MANY if name == "spin" else FEW], ROUNDS[name]
            models[name] = rounds_of(way, shown, models[way.begins_from], place, seed=seed)[-1]
        answers = {name: compared.answers(model) for name, model in models.items() if name}
    own = {name: float(compared.wins_against_start(texts).mean()) for name, texts in answers.items()}
    scores = {f"{name}_reward": mean_score(compared.prompts, texts) for name, texts in answers.items()}
    direct = {
        f"{ours}_against_{theirs}": float(wins(answers[ours], answers[theirs], compared.prompts).mean())
        for ours, theirs in AGAINST.items()
        if {ours, theirs} <= answers.keys()
    }
    return {"seed": seed, **own, **direct, **scores}


def mean_score(prompts: Sequence[Messages], answers: Sequence[Sequence[str]]) -> float:
    """Return the mean score of all answers by the exact rule."""
    scores = [support_reply(messages, text) for messages, texts in zip(prompts, answers, strict=True) for text in texts]
    return sum(scores) / len(scores)


def good_replies(seed: int) -> tuple[list[Demonstrated], list[Demonstrated]]:
    """Return the best replies to prompts that have a good one, in an order that the seed draws, and to the others."""
    replies: defaultdict[str, list[tuple[float, Demonstrated]]] = defaultdict(list)
    for messages, reply in corpus():
        score = support_reply(messages, reply)
        replies[messages[0]["content"]].append((score, Demonstrated(messages, reply)))
    best = [max(scored, key=lambda each: each[0]) for scored in replies.values()]
    good = [demonstrated for score, demonstrated in best if score >= GOOD]
    return random.Random(seed).sample(good, len(good)), [each for score, each in best if score < GOOD]


def sft_on(
    demonstrated: Sequence[Demonstrated],
    others: Sequence[Demonstrated],
    base: ModelRef,
    out: Path,
    *,
    seed: int,
    **knobs: Any,
) -> ModelRef:
    """Train on all of the demonstrations; another one, which the stage holds out, measures the loss."""
    share = 1 / (len(demonstrated) + 1)
    keys = [content_key(each.messages) for each in demonstrated]
    measure = next(
        each
        for each in others
        if evaluation_prompts([*keys, content_key(each.messages)], share=share, seed=seed)
        == {content_key(each.messages)}
    )
    out.mkdir(parents=True)
    source = out / "demonstrations.jsonl"
    rows = [{"prompt": each.messages, "completion": each.reply} for each in (*demonstrated, measure)]
    source.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings = SftConfig(dtype="float32", eval_share=share, seed=seed, require_improvement=False, **knobs)
    digest = sft.read_demonstrations(str(source), split="train").digest
    trained_on = Artifact(path=source, digest=digest)
    model = out / "sft"
    sft.run(SftRequest(base=base, demonstrations=trained_on, split="train", settings=settings), model)
    return start_ref(model, revision="main")


def rounds_of(
    way: Rounds, demonstrated: Sequence[Demonstrated], policy: ModelRef, folder: Path, *, seed: int
) -> list[ModelRef]:
    """Return the policies after each round on demonstrations, without a gate."""
    first, earlier, policies = policy, list[EarlierAnswers](), list[ModelRef]()
    source = {prompt_id(each.messages): each for each in demonstrated}
    known = {name: Demonstrations(name, each.messages, (each.reply,)) for name, each in source.items()}
    settings = PreferencesConfig(pairs=way.pairs, demonstrations="corpus")  # type: ignore[arg-type]
    for round in range(1, way.number + 1):
        prompts = [each.messages for each in source.values()]
        answers = sampled(policy, prompts, samples=way.samples, seed=seed + round)
        groups = [
            Group(name, each.messages, tuple(enumerate(texts)))
            for (name, each), texts in zip(source.items(), answers, strict=True)
        ]
        built = build_demonstrated(
            known, groups, earlier, champion=round - 1, source="corpus", preferences=settings, seed=seed + round
        )
        earlier.append(EarlierAnswers(round - 1, {group.prompt_id: group for group in groups}))
        rows = renderable(built.rows, policy)
        reference = first if way.pairs == "ditto" else policy
        policy = trained(rows, policy, way.config, folder, seed=seed, reference=reference)
        policies.append(policy)
    return policies


def renderable(rows: Sequence[dict[str, Any]], policy: ModelRef) -> list[dict[str, Any]]:
    """Return the pairs that can be trained on as texts; a round carries the tokens of what was sampled instead."""
    chat = ChatTokenizer(load_tokenizer(policy))
    failed = encode(pd.DataFrame(rows), chat, limits=LIMITS, held_out=HeldOutContents((), "content")).reasons
    return [row for place, row in enumerate(rows) if place not in failed]


def draw(samples: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the win rates against the start: a point per seed, and the means with their intervals."""
    names = [name for name in TITLES if any(name in sample for sample in samples)]
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for place, name in enumerate(names):
        values = [sample[name] for sample in samples if name in sample]
        axes.plot([place] * len(values), values, "o", color="0.7", markersize=4)
        if len(values) > 1:
            mean = interval_of_mean(values)
            reach = [[mean["mean"] - mean["low"]], [mean["high"] - mean["mean"]]]
            axes.errorbar(place + 0.15, mean["mean"], reach, marker="s", capsize=4, color="C0")
    axes.axhline(0.5, color="0.5", linestyle=":")
    counts = [sum(name in sample for sample in samples) for name in names]
    labels = [f"{TITLES[name]}\n{number} seeds" for name, number in zip(names, counts, strict=True)]
    axes.set_xticks(range(len(names)), labels)
    axes.set_ylabel("win rate against the start")
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
