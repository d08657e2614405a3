"""What pages have of other files (models/), and scripts that need no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from mkdocs.structure.files import File, Files
from pyscf.data.elements import ELEMENTS

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


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001  (MkDocs' signature)
    """Put the table of the shipped models into the page of models."""
    return markdown.replace("<!-- models -->", _models()) if page.file.src_uri == "guides/models.md" else markdown


def _models() -> str:
    rows = ["| Model | Elements | Charges | Functional | Basis set | H0 | Card |", "|---|---|---|---|---|---|---|"]
    for path in sorted(MODELS.glob("*/config.yaml")):
        model = yaml.safe_load(path.read_text())
        elements = ", ".join(ELEMENTS[z] for z in model["elements"])
        charges = ", ".join(f"{charge:+d}" if charge else "0" for charge in sorted(model["charges"]))
        card = f"[card](../cards/{path.parent.name}.md)" if (path.parent / "card.md").exists() else ""
        basis = ", ".join(filter(None, (model["basis"], model.get("pseudo", ""))))
        level = f"{model['xc']} | {basis} | `{model['baseline']}`"
        rows.append(f"| `{model['name']}` | {elements} | {charges} | {level} | {card} |")
    return "\n".join(rows)


def on_post_page(output: str, page: Any, config: Any) -> str:  # noqa: ARG001  (MkDocs' signature)
    """Take scripts from the site itself."""
    return output.replace(SHIM, "../" * page.url.count("/") + OWN_SHIM)


def on_post_template(output_content: str, template_name: str, config: Any) -> str:  # noqa: ARG001
    """Take scripts from the site itself, in 404.html."""
    return output_content.replace(SHIM, "/" + OWN_SHIM)
