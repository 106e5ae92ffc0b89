"""One system that samples, in a process of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import CASES, prompts
from real_case import RealModel
from shapes import SHAPES
from turns import serve


def prepare(task: dict[str, Any]) -> tuple[Callable[[], dict[str, Any]], dict[str, Any]]:
    """Return the function that samples once, and its description."""
    from gate import same_greedy_tokens, same_law
    from ours import Ours
    from peers import Generate, GenerateBatch
    from vllm_peer import Vllm

    directory = Path(task["policy"])
    shape: Any = RealModel(task["model"]) if "model" in task else SHAPES[task["shape"]]
    options: dict[str, Any] = {
        "dtype": torch.bfloat16 if task["bf16"] else torch.float32,
        "max_new_tokens": task["max_new_tokens"],
    }
    if task["system"] == "gate":
        greedy = same_greedy_tokens(shape, directory, max_new_tokens=task["max_new_tokens"])
        return dict, {"greedy": greedy, "law": same_law(shape, directory, **options)}
    case = CASES[task["case"]]
    if case.real:
        asked = shape.prompts(task["pairs"], task["prompts"])
    else:
        asked = prompts(case, task["prompts"], shape.vocabulary, task["seed"])
    systems: dict[str, Any] = {"ours": Ours, "generate": Generate, "generate_batch": GenerateBatch, "vllm": Vllm}
    system = systems[task["system"]](shape, directory, case, **options)
    settings = iter(task["settings"])

    def step() -> dict[str, Any]:
        try:
            answers = [answer for several in system(asked, **next(settings)) for answer in several]
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}
        assert len(answers) == len(asked) * case.samples
        return {
            "tokens": sum(map(len, answers)),
            "answers": len(answers),
            "stopped": sum(answer[-1] == shape.end for answer in answers),
        }

    return step, {}


if __name__ == "__main__":
    serve(prepare)
