"""For the site: links to notebooks lead to their pages; to other files outside docs/, they become their paths."""

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    markdown = re.sub(r"\(\.\./examples/notebooks/(\w+)\.ipynb\)", r"(notebooks/\1.md)", markdown)
    return re.sub(r"\[([^]]*)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", markdown)
