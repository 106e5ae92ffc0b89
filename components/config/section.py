"""The base class of every section of the configuration."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of knobs that rejects unknown keys; each field's docstring is its reference entry."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    ADDED_LATER: ClassVar[tuple[str, ...]] = ()
    """Fields that earlier versions do not have. At its default such a field enters no digest, so that the stages that
    an earlier version published keep their keys."""
