"""The base class of every section of the configuration."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of knobs that rejects unknown keys; each field's docstring is its reference entry."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
