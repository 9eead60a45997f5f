"""Pictures of docs/gallery.md, each drawn by the page's own code.

    python benchmarks/gallery.py

Where the repository lies, after `make demo`. It needs kaleido and a Chrome.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

from lorascope.analyze.report.document import draw

PAGE = Path("docs/gallery.md")
WIDTH = 720
"""Pixels: what a page of the documentation has."""
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n!\[[^\]]*\]\(([^)]+)\))?", re.DOTALL | re.MULTILINE)
"""A block of code, and the picture that follows it."""


def main() -> None:
    """Run the page's code in order, and write the pictures of what it draws."""
    scope: dict[str, Any] = {}
    figures = {}
    for code, picture in BLOCK.findall(PAGE.read_text()):
        *first, last = ast.parse(code).body
        exec(compile(ast.Module(first, []), PAGE.name, "exec"), scope)
        if picture:
            assert isinstance(last, ast.Expr), f"the block of {picture} must end in a figure"
            figure = eval(compile(ast.Expression(last.value), PAGE.name, "eval"), scope)
            figures[picture] = json.loads(figure.to_json())
        else:
            exec(compile(ast.Module([last], []), PAGE.name, "exec"), scope)
    drawn = draw(figures, kind="webp", width=WIDTH)
    if missing := sorted(figures.keys() - drawn.keys()):
        raise SystemExit(f"not drawn: {missing}; install kaleido and a Chrome")
    for picture, content in drawn.items():
        path = PAGE.parent / picture
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        print(f"{path}  {len(content) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
