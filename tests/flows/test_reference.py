from pathlib import Path

from components.config import CampaignConfig
from flows.reference import config_reference, configuration_page


def test_configuration_page_is_what_the_docstrings_give() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == configuration_page(), "the configuration changed: run `make reference`"


def test_reference_names_every_section() -> None:
    text = config_reference()
    fields = CampaignConfig.model_fields.items()
    sections = [name for name, field in fields if hasattr(field.annotation, "model_fields")]
    assert [name for name in sections if f"## `{name}`\n" not in text] == []
    assert "| `label_smoothing` | float ≥ 0, < 0.5 | `0.0` |" in text
    assert "| `beta` | float > 0 | by the other keys |" in text
    assert "| `campaign` | str | required |" in text
