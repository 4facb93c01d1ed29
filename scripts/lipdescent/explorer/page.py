"""The explorer as one file: the data, the library that draws them, and the controls."""

import json
from html import escape
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs

from lipdescent.explorer.contents import pack

# The browser itself refuses to load anything from anywhere.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


def html(contents: dict[str, Any]) -> str:
    """The page of a study; ``contents`` is what :func:`explorer.contents.contents` gives."""
    own = files("lipdescent.explorer")
    script, style = (
        own.joinpath(f"explorer.{kind}").read_text(encoding="utf-8") for kind in ("js", "css")
    )
    body = own.joinpath("explorer.html").read_text(encoding="utf-8")
    title = escape(f"Explorer of study {contents['study']}")
    data = json.dumps(contents, allow_nan=False).replace("</", "<\\/")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<h1>{title}</h1>\n{body}"
        f'<script type="text/plain" id="plotly">{pack(get_plotlyjs().encode())}</script>\n'
        f'<script type="application/json" id="study">{data}</script>\n'
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )
