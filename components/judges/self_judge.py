"""The self judge: the round's own policy, served on this machine while it judges, and asked like any chat model.

The server listens on 127.0.0.1 only, requires a random key, and ends with the judging, however that ends. It computes
in full precision even if the other stages hold the policy's weights in 4 bits.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from components import artifacts
from components.config import EndpointConfig, JudgeSettings, PolicyConfig
from components.data.messages import Messages
from components.judges.chat.quoting import NOTICE
from components.judges.chat.rehearsal import running_rehearsal
from components.judges.chat.request import identity_of_fields
from components.judges.comparisons import SCHEMA
from components.judges.llm import LlmJudge
from components.judges.protocol import Group, Judge, JudgeContext, Verdict
from components.judges.wording import check_template, read_template
from components.records import JudgeUnavailable, ModelRef, ServiceFailed
from components.runtime.ports import free_port
from components.serving.engines import Engine, engine_for, pick_engine
from components.serving.plan import Serving
from components.serving.server import served

NAME = "self"
KEY_VARIABLE = "RATCHET_SELF_JUDGE_KEY"
"""Environment variable of the server's key, from which the chat client reads it."""
OUTPUTS: dict[Engine, Literal["json_schema", "text"]] = {"vllm": "json_schema", "transformers": "text"}
"""By engine, the output setting that its server supports: the one of transformers writes free text only."""


class SelfJudge:
    """Compare responses by asking the policy that wrote them."""

    def __init__(self, config: JudgeSettings, context: JudgeContext) -> None:
        """Take the policy from the context without serving it.

        Raises:
            ValueError: The context has no policy, as outside a campaign.
        """
        if context.policy is None or context.limits is None:
            raise ValueError(
                "judge kind self asks a campaign's policy: use kind: llm with your own endpoint outside a campaign"
            )
        self.name = NAME
        self._config, self._context = config, context
        self._policy, self._limits = context.policy, context.limits

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Serve the policy, and compare the responses as the `llm` judge does.

        Raises:
            JudgeUnavailable: The server does not start, or as the `llm` judge.
        """
        with serving_policy(
            self._policy, self._limits, self._config.endpoint, scratch=self._context.scratch
        ) as endpoint:
            judge = LlmJudge(self._config.model_copy(update={"endpoint": endpoint}), self._context)
            judge.name = self.name
            return judge.judge(groups)


@contextlib.contextmanager
def serving_policy(
    policy: ModelRef, limits: PolicyConfig, endpoint: EndpointConfig, *, scratch: Path
) -> Iterator[EndpointConfig]:
    """Serve a policy on a free port of 127.0.0.1 until the block is left or this process dies.

    Yields the endpoint to ask.

    Args:
        policy: What to serve.
        limits: Its precision.
        endpoint: Limits of the requests; address, model and output come from the server.
        scratch: Directory for the server's log and the model's files.

    Raises:
        JudgeUnavailable: The server did not start.
    """
    if running_rehearsal() is not None:
        yield endpoint.model_copy(update={"url": "", "model": NAME})
        return
    # The name is part of every cached question, so that no round uses the answers of another round's policy.
    key = os.environ.setdefault(KEY_VARIABLE, secrets.token_urlsafe(32))
    serving = Serving(scratch, policy, f"policy-{policy.digest[:16]}", limits.dtype, free_port(), key)
    engine = engine_for(policy)
    scratch.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(served(serving, engine))
        except ServiceFailed as error:
            raise JudgeUnavailable(f"judge {NAME}: {error}") from None
        served_endpoint = {"url": serving.address, "model": serving.model_id, "output": OUTPUTS[engine]}
        yield endpoint.model_copy(update=served_endpoint | {"api_key_from": f"env:{KEY_VARIABLE}"})


def load(config: JudgeSettings, context: JudgeContext) -> Judge:
    """Return the judge that asks the context's policy."""
    return SelfJudge(config, context)


def digest(config: JudgeSettings) -> str:
    """Return the identity of the judge: the wording and form of the questions.

    The policy that answers comes with the context.
    """
    endpoint = config.endpoint
    asked = {"max_tokens": endpoint.max_tokens, "schema": SCHEMA} | identity_of_fields(endpoint)
    return artifacts.digest({"self": asked, "template": read_template(config.prompt), "notice": NOTICE})


def check(config: JudgeSettings, prompts: Sequence[Messages]) -> None:
    """Check that a server is installed and that the template can be used.

    Raises:
        ValueError: One of them is missing or not valid; one line with the remedy.
    """
    pick_engine("auto")
    check_template(config.prompt)
