"""The door of inferring a reward: save champion and start as a judge, and measure it on held-out demonstrations."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.artifacts import derive_seed, write_json
from components.config import JudgeConfig
from components.data.messages import parse_messages
from components.data.prompts import prompt_id
from components.generation.engines import opened
from components.generation.responses import respond, stop_strings
from components.generation.sampler import Sampled
from components.generation.sampling_params import SamplingParams
from components.inferred_reward.measuring import Shown, accuracy, as_json, gain, outcomes, with_answers
from components.inferred_reward.saving import save_reward
from components.judges.protocol import Group, JudgeContext
from components.judges.registry import describe_judge, load_judge, load_pinned_judge
from components.models.tokens import load_chat
from components.records import InferRewardRequest
from components.runtime import progress

RESULT = "inferred_reward.json"
log = logging.getLogger(__name__)


def run(request: InferRewardRequest, out: Path) -> None:
    """Write `reward.json` with the models `policy/` and `start/`, and the measures as `inferred_reward.json`.

    Raises:
        ValueError: A model or the reward model cannot be used.
    """
    save_reward(request, out)
    measured = _measured(request, out) if request.demonstrations else None
    content = {
        "campaign": request.campaign,
        "round": request.policy.round,
        "policy_digest": request.policy.digest,
        "start_digest": request.start.digest,
        "beta": request.beta,
        "left_out": request.left_out,
        "held_out": measured,
    }
    write_json(out / RESULT, content)


def _measured(request: InferRewardRequest, out: Path) -> dict[str, Any]:
    demonstrations: defaultdict[str, list[str]] = defaultdict(list)
    prompts: dict[str, Group] = {}
    for each in request.demonstrations:
        messages = parse_messages(each.prompt)
        name = prompt_id(messages)
        demonstrations[name].append(each.answer)
        prompts[name] = Group(name, messages, ())
    own = _own_answers(request, list(prompts.values()))
    shown, equal = with_answers(prompts, demonstrations, own)
    counts = {
        "demonstrations": len(request.demonstrations),
        "prompts": len(prompts),
        "compared_prompts": len(shown),
        "own_answers": request.samples * len(prompts),
        "equal": equal,
    }
    return counts | _compared(request, shown, out)


def _compared(request: InferRewardRequest, shown: Sequence[Shown], out: Path) -> dict[str, Any]:
    """Return how often the reward is right, and the reward model that it is compared with."""
    groups, settings = [each.group for each in shown], request.sampling
    context = JudgeContext(out.parent / "judging" / out.name)
    # Read from what was written: a reward that its directory does not hold must not be measured.
    saved = load_judge(JudgeConfig(kind="inferred_reward", model=str(out), batch_size=request.batch_size), context)
    reward = outcomes(shown, saved.judge(groups))
    content: dict[str, Any] = {"reward": as_json(reward, accuracy(reward, settings, seed=request.seed))}
    if request.against is not None:
        other = outcomes(shown, load_pinned_judge(request.against, context).judge(groups))
        by = gain(reward, other, settings, seed=request.seed)
        content |= {
            "against": {
                "judge": describe_judge(request.against.config),
                **as_json(other, accuracy(other, settings, seed=request.seed)),
            },
            "gain": None if by is None else by.model_dump(),
        }
    return content


def _own_answers(request: InferRewardRequest, groups: Sequence[Group]) -> dict[str, list[str]]:
    """Sample the start model's answers, by the law of the campaign's evaluations."""
    limits, sampling, generation = request.limits, request.sampling, request.generation
    chat = load_chat(request.start, limits)
    ids = [chat.prompt_ids(group.messages) for group in groups]
    seeds = [
        [derive_seed(request.seed, "own", group.prompt_id, number) for number in range(request.samples)]
        for group in groups
    ]
    law = SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_new_tokens=limits.max_response_tokens,
        stop_ids=chat.stop_ids,
        stops=stop_strings(chat, generation.stop),
    )
    done = 0

    def report(batch: Sequence[Sampled]) -> None:
        nonlocal done
        done += len(batch)
        progress.report(done, request.samples * len(groups), "responses of the start model")

    with opened(
        request.start,
        limits,
        engine=generation.engine,
        longest=max(map(len, ids)) + limits.max_response_tokens,
        pad_id=chat.pad_id,
        batch_size=generation.batch_size,
        reads_text=bool(generation.stop),
        tensor_parallel_size=generation.tensor_parallel_size,
    ) as sampler:
        answers = respond(sampler.draw, chat, ids, seeds=seeds, law=law, on_batch=report)
    return {
        group.prompt_id: [answer.text for answer in of_prompt] for group, of_prompt in zip(groups, answers, strict=True)
    }
