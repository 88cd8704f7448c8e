"README.md from nbs/index.ipynb: `python tests/readme.py` writes it, and a test compares."
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Generated from nbs/index.ipynb by `make readme`; edit the notebook. -->\n\n"


def without_directives(source: str) -> str:
    return "\n".join(line for line in source.splitlines() if not line.startswith("#|"))


def readme() -> str:
    "The index as Markdown: hidden cells left out, pictures found from the repository's root."
    notebook = nbformat.read(ROOT / "nbs/index.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith("#| hide")]
    for cell in notebook.cells: cell.source = without_directives(cell.source)
    notebook.metadata["language_info"] = {"name": "python"}  # names the language of code blocks; cleaning removes it
    text, extra = MarkdownExporter().from_notebook_node(notebook)
    if extra["outputs"]: raise ValueError(f"the README shows files by link; found embedded outputs {sorted(extra['outputs'])}: save them under nbs/images")
    return NOTE + text.strip().replace("](images/", "](nbs/images/").replace("](../", "](") + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
