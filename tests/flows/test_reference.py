from pathlib import Path

from components.config import CampaignConfig
from flows.reference import config_reference


def test_readme_holds_the_reference_that_the_docstrings_give() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert config_reference().strip() in readme, "the configuration changed: run `make reference`"


def test_reference_names_every_section() -> None:
    text = config_reference()
    sections = [
        name for name, field in CampaignConfig.model_fields.items() if hasattr(field.annotation, "model_fields")
    ]
    assert [name for name in sections if f"### `{name}`" not in text] == []
    assert "| `beta` | float > 0 | `0.1` |" in text
    assert "| `campaign` | str | required |" in text
