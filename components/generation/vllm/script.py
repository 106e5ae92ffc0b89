"""The script that runs in vLLM's own Python: it loads a model, then answers requests until its input ends.

Imports nothing of this project.

Each line of input is JSON. The first line has the arguments of `LLM` and, under `adapter`, the path of an adapter or
null. Every further line is a request with `prompts` (token ids), `seeds` (one list per prompt, one response per seed)
and `sampling`, the arguments of `SamplingParams`. Each response is written as a line of JSON when it is complete:
[prompt, sample, token ids, finish reason]. `null` ends the answer to a request.
"""

import json
import os
import sys
from typing import Any

AT_ONCE = 1024
"""Responses per call of vLLM, which returns them together, so that progress is visible in between."""


def main() -> None:
    """Answer requests until the input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not mix with the answers
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    def write(value: Any) -> None:
        print(json.dumps(value), file=out, flush=True)

    settings = json.loads(sys.stdin.readline())
    adapter = settings.pop("adapter")
    model = LLM(**settings)
    lora = None if adapter is None else LoRARequest("policy", 1, adapter)
    write(None)
    for line in sys.stdin:
        request = json.loads(line)
        sampling = request["sampling"]
        if "logit_bias" in sampling:
            # JSON has no numbers as keys.
            sampling["logit_bias"] = {int(token): bias for token, bias in sampling["logit_bias"].items()}
        rows = [(prompt, sample) for prompt, seeds in enumerate(request["seeds"]) for sample in range(len(seeds))]
        for begin in range(0, len(rows), AT_ONCE):
            part = rows[begin : begin + AT_ONCE]
            ids = [{"prompt_token_ids": request["prompts"][prompt]} for prompt, _ in part]
            laws = [SamplingParams(**sampling, seed=request["seeds"][prompt][sample]) for prompt, sample in part]
            for row, result in zip(part, model.generate(ids, laws, use_tqdm=False, lora_request=lora), strict=True):
                answer = result.outputs[0]
                write([*row, list(answer.token_ids), answer.finish_reason])
        write(None)


if __name__ == "__main__":
    main()
