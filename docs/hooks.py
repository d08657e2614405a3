"""Pages that are made of other files (the card of each model in models/), and scripts that need no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

# the offline plugin takes this one from a network; it lets the search of a folder run without a server
SHIM, OWN_SHIM = "https://unpkg.com/iframe-worker/shim", "assets/iframe-worker/shim.js"
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


def on_post_page(output: str, page: Any, config: Any) -> str:  # noqa: ARG001  (MkDocs' signature)
    """Take scripts from the site itself."""
    return output.replace(SHIM, "../" * page.url.count("/") + OWN_SHIM)


def on_post_template(output_content: str, template_name: str, config: Any) -> str:  # noqa: ARG001
    """Take scripts from the site itself, in 404.html."""
    return output_content.replace(SHIM, "/" + OWN_SHIM)
