"""Runs notebooks, each in a namespace of its own, and stores what their cells print, return and draw.

python examples/notebooks/execute.py                                  # all
python examples/notebooks/execute.py examples/notebooks/02_own_csv.ipynb

Without Jupyter, and what is stored stays small: text as it is printed, tables, pictures of 75 dots an inch.
"""

import argparse
import ast
import base64
import contextlib
import hashlib
import io
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

FOLDER = Path(__file__).resolve().parent
DOTS = 75
BAR = "━"  # of progress, which is not stored
os.environ["COLUMNS"] = "200"  # a bar is a line


def code_cells(notebook: dict[str, Any]) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def code_hash(notebook: dict[str, Any]) -> str:
    """By which stored outputs know the code that made them."""
    return hashlib.sha256(json.dumps(code_cells(notebook)).encode()).hexdigest()


def run_cell(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The outputs of a cell, as a notebook stores them."""
    tree, printed, value = ast.parse(source), io.StringIO(), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):  # bars
        exec(compile(tree, f"cell {count}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), names)
    outputs: list[dict[str, Any]] = []
    text = [line for line in printed.getvalue().splitlines(True) if BAR not in line and line.strip()]
    if text:
        outputs.append({"name": "stdout", "output_type": "stream", "text": text})
    drawn = any(isinstance(one, Axes) for one in (value if hasattr(value, "__len__") else [value]))
    if value is not None and not drawn:
        data = {"text/plain": repr(value).splitlines(True)}
        if isinstance(value, pd.DataFrame):
            data = {"text/plain": value.to_string().splitlines(True), "text/html": value.to_html().splitlines(True)}
        outputs.append({"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"})
    for number in plt.get_fignums():
        picture = io.BytesIO()
        plt.figure(number).savefig(picture, format="png", dpi=DOTS)
        data = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": ["<Figure>"]}
        outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
    plt.close("all")
    return outputs


def execute(file: Path) -> None:
    """Runs a notebook in an empty folder, and stores its outputs in it."""
    notebook, names = json.loads(file.read_text()), {"__name__": "__main__"}
    count, before = 0, Path.cwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    count += 1
                    cell["outputs"] = run_cell("".join(cell["source"]), names, count)
                    cell["execution_count"] = count
        finally:
            os.chdir(before)
    notebook["metadata"]["code"] = code_hash(notebook)
    file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=sorted(FOLDER.glob("*.ipynb")))
    for file in parser.parse_args().files:
        print(file, flush=True)
        execute(file)
