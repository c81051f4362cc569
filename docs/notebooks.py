"""For the site: the notebooks of examples/notebooks become pages, with what their cells printed and drew."""

import json
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"


def on_files(files: Files, config: Any) -> Files:
    for file in sorted(FOLDER.glob("*.ipynb")):
        text = "\n\n".join(shown(cell) for cell in json.loads(file.read_text())["cells"])
        files.append(File.generated(config, f"notebooks/{file.stem}.md", content=text + "\n"))
    return files


def shown(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    return "\n\n".join([f"```python\n{source}\n```", *map(told, cell["outputs"])])


def told(output: dict[str, Any]) -> str:
    data = output.get("data", {"text/plain": output.get("text", [])})
    if "image/png" in data:
        return f"![drawn by the cell above](data:image/png;base64,{data['image/png']})"
    if "text/html" in data:
        return "".join(data["text/html"]).replace(' border="1" class="dataframe"', "")  # the theme's own
    return "```\n" + "".join(data["text/plain"]).rstrip() + "\n```"
