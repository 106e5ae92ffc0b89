"""What runs in vLLM's own Python: it loads a model, then answers questions until its input ends.

Imports nothing of this project.

A line of input is JSON. The first one has the arguments of `LLM` and, under `adapter`, the place of an adapter or null.
Every further one has `prompts` (token ids), `seeds` (a list a prompt, a response for each), and `sampling`, the
arguments of `SamplingParams`. For each response a line of JSON goes out as soon as it is there: [prompt, sample, token
ids, why it ended]; `null` ends an answer.
"""

import json
import os
import sys
from typing import Any

AT_ONCE = 1024
"""Responses that vLLM is asked for before it must have given them all, so that somebody who waits hears of them."""


def main() -> None:
    """Answers until the input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    def tell(value: Any) -> None:
        print(json.dumps(value), file=out, flush=True)

    given = json.loads(sys.stdin.readline())
    adapter = given.pop("adapter")
    model = LLM(**given)
    lora = None if adapter is None else LoRARequest("policy", 1, adapter)
    tell(None)
    for line in sys.stdin:
        asked = json.loads(line)
        sampling = asked["sampling"]
        if "logit_bias" in sampling:
            # JSON has no numbers as keys.
            sampling["logit_bias"] = {int(token): bias for token, bias in sampling["logit_bias"].items()}
        rows = [(prompt, sample) for prompt, seeds in enumerate(asked["seeds"]) for sample in range(len(seeds))]
        for begin in range(0, len(rows), AT_ONCE):
            part = rows[begin : begin + AT_ONCE]
            ids = [{"prompt_token_ids": asked["prompts"][prompt]} for prompt, _ in part]
            laws = [SamplingParams(**sampling, seed=asked["seeds"][prompt][sample]) for prompt, sample in part]
            for row, found in zip(part, model.generate(ids, laws, use_tqdm=False, lora_request=lora), strict=True):
                answer = found.outputs[0]
                tell([*row, list(answer.token_ids), answer.finish_reason])
        tell(None)


if __name__ == "__main__":
    main()
