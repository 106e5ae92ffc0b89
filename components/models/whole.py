"""Load a transformers model only if its files hold exactly its tensors; the one way for policies and reward models.

transformers draws missing tensors at random, anew at each load, and drops those that the model has no place for.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from transformers.utils.logging import disable_progress_bar

from components.models.rotary import make_rows_independent
from components.runtime.stage_log import only_errors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LANGUAGE_HEADS = ("lm_head.", "embed_out.", "output_projection.")
"""Beginnings of the names of a language model's head, which a reward model has no place for."""
NAMED = 3
"""Tensors of a kind that a message names."""


def load_whole(
    auto: Any,
    path: str,
    *,
    name: str,
    remedy: str,
    may_lack: tuple[str, ...] = (),
    may_hold: tuple[str, ...] = (),
    **options: Any,
) -> "tuple[PreTrainedModel, list[str]]":
    """Load a model from safetensors, without remote code.

    A tensor that is tied to another, or that the model computes itself, is not missing. A tensor that transformers
    knows to be without use, such as an old buffer, is not unused.

    Args:
        auto: transformers' class for the model's task.
        path: Directory or hub name.
        name: The model in messages, such as `policy.model x`.
        remedy: What the user can do about it, for messages.
        may_lack: Beginnings of the names of tensors that may be missing.
        may_hold: Beginnings of the names of tensors that may be unused.
        options: Further arguments of `from_pretrained`.

    Returns:
        The model, and the names of the tensors that it lacks.

    Raises:
        ValueError: Tensors are missing, unused or of another shape; one line that names them.
    """
    disable_progress_bar()
    # transformers has a table of its own of these tensors.
    with only_errors("transformers.modeling_utils"):
        model, report = auto.from_pretrained(
            path,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    missing = sorted(report["missing_keys"])
    lost = [tensor for tensor in missing if not tensor.startswith(may_lack)]
    unused = [tensor for tensor in report["unexpected_keys"] if not tensor.startswith(may_hold)]
    faults = [
        f"has {tuple(own)} for {tensor} where its config asks for {tuple(wanted)}"
        for tensor, own, wanted in sorted(report["mismatched_keys"])[:1]
    ]
    if lost:
        faults.append(f"lacks weights ({name_some(lost)}), which would be random at each load")
    if unused:
        faults.append(f"holds weights that {type(model).__name__} does not use ({name_some(unused)})")
    if faults:
        raise ValueError(f"{name} {', and '.join(faults)}: {remedy}")
    make_rows_independent(model)
    return model, missing


def name_some(tensors: Iterable[str]) -> str:
    """Return the first names of tensors, and how many there are beside them."""
    names = sorted(tensors)
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
