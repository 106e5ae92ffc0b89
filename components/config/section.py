"""The base class of every section of the configuration."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of knobs that rejects unknown keys; each field's docstring is its reference entry."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    ADDED_LATER: ClassVar[tuple[str, ...]] = ()
    """Fields that earlier versions do not have. At its default such a field enters no digest, so that the stages that
    an earlier version published keep their keys."""
    FORMER_DEFAULTS: ClassVar[dict[str, Any]] = {}
    """Defaults of earlier versions. A campaign that began with one keeps it, as long as its configuration leaves the
    key out; at the former default a field of `ADDED_LATER` enters no digest."""
    PATHS: ClassVar[tuple[str, ...]] = ()
    """Fields that may name a file or a directory; a relative path in a YAML file is relative to that file."""
