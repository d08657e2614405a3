"""Pages that are made of other files: the card of each model in models/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

MODELS = Path(__file__).resolve().parent.parent / "models"
ORIGIN = "<!-- from models/{name}/card.md -->\n"


def on_files(files: Files, config: Any) -> Files:
    """Add cards/<model>.md and the pictures that it shows."""
    for card in sorted(MODELS.glob("*/card.md")):
        name = card.parent.name
        text = ORIGIN.format(name=name) + card.read_text()
        for picture in sorted(card.parent.glob("*.png")):
            text = text.replace(f"]({picture.name})", f"]({name}-{picture.name})")
            files.append(File.generated(config, f"cards/{name}-{picture.name}", abs_src_path=str(picture)))
        files.append(File.generated(config, f"cards/{name}.md", content=text))
    return files
