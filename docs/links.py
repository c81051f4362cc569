"""For the site: links to files of the repository outside docs/ become their paths."""

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    return re.sub(r"\[([^]]*)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", markdown)
