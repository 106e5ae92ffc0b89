"""The judging of sampled answers to held-out prompts: what a judge is given of them. Knows no file."""

from collections.abc import Sequence

from components.evaluation.answers import Answers
from components.evaluation.held_out import HeldOut
from components.evaluation.outcomes import Enough, HeldOutComparison, compare, never_enough
from components.evaluation.samples import repeated
from components.judges.protocol import Judge, SampledTokens


def judge_answers(
    judge: Judge,
    held_out: HeldOut,
    answers: Answers,
    *,
    models: Sequence[str],
    samples_per_prompt: int,
    look_every: int = 0,
    enough: Enough = never_enough,
) -> HeldOutComparison:
    """Judge the challenger's answers against those of its opponents; other arguments and errors as for `compare`.

    Args:
        judge: The judge.
        held_out: The prompts.
        answers: The answers to them.
        models: `challenger` and its opponents.
        samples_per_prompt: Answers of each model to a prompt.
        look_every: Prompts between two calls of `enough`; 0 judges all at once.
        enough: As for `compare`.
    """
    responses = {name: answers.responses[name] for name in models}
    return compare(
        judge,
        repeated(held_out.prompts, samples_per_prompt),
        {name: [response.text for response in of_model] for name, of_model in responses.items()},
        prompt_ids=repeated(held_out.token_ids, samples_per_prompt),
        tokens={
            name: [SampledTokens(tuple(each.token_ids), each.finish_reason, None) for each in of_model]
            for name, of_model in responses.items()
        },
        columns=repeated(held_out.columns, samples_per_prompt),
        samples_per_prompt=samples_per_prompt,
        look_every=look_every * samples_per_prompt,
        enough=enough,
    )
