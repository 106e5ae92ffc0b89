"""A policy as lm-evaluation-harness asks models: answers up to a stop string, and likelihoods of given answers.

Imports the harness, so only `harness.py` imports this, when a task of it is asked.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import LM

from components.artifacts import derive_seed
from components.generation.engines import Sampler, opened
from components.generation.responses import respond, stop_strings
from components.generation.sampling_params import SamplingParams
from components.models.tokens import ChatTokenizer
from components.records import ModelRef
from components.regression.answering import Asking
from components.runtime.ranks import over_ranks
from components.scoring.response_logps import response_logps

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class HarnessModel(LM):
    """A policy behind the interface of the harness; ranks share its requests, and each has all results."""

    tokenizer_name = ""
    """Part of the harness's cache of requests, which is off."""

    def __init__(self, policy: Sampler, chat: ChatTokenizer, asking: Asking, digest: str) -> None:
        super().__init__()
        self._policy, self._chat, self._asking, self._digest = policy, chat, asking, digest

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation as text; one whose answer has begun ends with what it begins with."""
        if add_generation_prompt:
            return self._chat.render(chat_history, add_generation_prompt=True)
        *asked, begun = chat_history
        return self._chat.render(asked, add_generation_prompt=True) + begun["content"]

    def generate_until(self, requests: list["Instance"]) -> list[str]:
        """Return one answer per request, which ends before the first stop string that the task gives."""
        by_settings: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            by_settings.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(place)
        answers = [""] * len(requests)
        for settings, places in by_settings.items():
            texts = self._answers([requests[place].args[0] for place in places], json.loads(settings))
            for place, text in zip(places, texts, strict=True):
                answers[place] = text
        return answers

    def loglikelihood(self, requests: list["Instance"]) -> list[tuple[float, bool]]:
        """Return the log-probability of each answer after its prompt; whether it is the most likely one is not known.

        No metric of a multiple choice reads the second value but `exact_match`, which is refused before.
        """
        prompts = [self._tokens(request.args[0]) for request in requests]
        answers = [self._chat.tokenizer(request.args[1], add_special_tokens=False)["input_ids"] for request in requests]

        model = self._policy.model
        assert model is not None, "the harness is served by our own sampler"

        def work(share: list[int]) -> list[float]:
            own, own_answers = ([rows[place] for place in share] for rows in (prompts, answers))
            return response_logps(model, self._chat.pad_id, own, own_answers).tolist() if own else []

        lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
        return [(logp, False) for logp in over_ranks(lengths, work)]

    def loglikelihood_rolling(self, requests: list["Instance"]) -> list[float]:
        """Refuse: tasks of whole texts are refused before they are asked."""
        raise NotImplementedError

    def _answers(self, contexts: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
        config = self._asking.config
        greedy = config.temperature == 0
        until = [settings["until"]] if isinstance(settings.get("until"), str) else list(settings.get("until") or ())
        until = [stop for stop in until if stop]
        law = SamplingParams(
            temperature=1.0 if greedy else config.temperature,
            top_p=1.0,
            top_k=1 if greedy else 0,
            max_new_tokens=min(config.max_tokens, int(settings.get("max_gen_toks") or config.max_tokens)),
            stop_ids=self._chat.stop_ids,
            stops=stop_strings(self._chat, until),
        )
        prompts = [self._tokens(context) for context in contexts]
        seeds = [[derive_seed(self._asking.seed, "regression", context, self._digest)] for context in contexts]
        answered = respond(self._policy.draw, self._chat, prompts, seeds=seeds, law=law, on_batch=lambda batch: None)
        return [_cut(responses[0].text, until) for responses in answered]

    def _tokens(self, context: str) -> list[int]:
        ids: list[int] = self._chat.tokenizer(context, add_special_tokens=False)["input_ids"]
        limit = self._asking.limits.max_prompt_tokens
        if len(ids) > limit:
            raise ValueError(
                f"a prompt of lm-evaluation-harness has {len(ids)} tokens, more than policy.max_prompt_tokens = "
                f"{limit}: raise it, lower the task's num_fewshot, or leave the task out of regression.tasks"
            )
        return ids


@contextlib.contextmanager
def opened_for_harness(model: ModelRef, chat: ChatTokenizer, asking: Asking) -> Iterator[HarnessModel]:
    """Load a policy, in our own sampler whatever engine samples responses, since vLLM's gives no likelihoods."""
    with opened(
        model,
        asking.limits,
        engine="transformers",
        longest=asking.limits.max_prompt_tokens + asking.config.max_tokens,
        pad_id=chat.pad_id,
        batch_size=asking.batch_size,
        reads_text=True,
    ) as policy:
        yield HarnessModel(policy, chat, asking, model.digest)


def _cut(text: str, until: Sequence[str]) -> str:
    """Return a text up to the first of some strings."""
    places = [text.find(stop) for stop in until if stop in text]
    return text[: min(places)] if places else text
