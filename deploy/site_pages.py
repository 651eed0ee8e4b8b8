"""What MkDocs runs while it makes the site: pages that lie outside of `docs/`, and links that lead there.

Links are written for the repository. Those to a file that is a page of the site lead to that page, those to any other
file lead to it in the repository; one that leads nowhere is a warning, which `--strict` makes an error.
"""

from __future__ import annotations

import logging
import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES = {
    "README.md": "index.md",
    "clients/python/README.md": "clients.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages that lie outside of `docs/`, by their place in the repository."""

_LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)

_log = logging.getLogger("mkdocs.hooks.site_pages")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside of `docs/`."""
    root = _root(config)
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(root / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, **_others: Any) -> str:
    """Turn the links of a page."""
    place = page.file.src_uri
    source = next((source for source, name in PAGES.items() if name == place), f"docs/{place}")

    def turned(found: re.Match[str]) -> str:
        link = found[0]
        parts = urlsplit(link)
        if parts.scheme or not parts.path:
            return link
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), parts.path))
        end = f"#{parts.fragment}" if parts.fragment else ""
        if target in PAGES or target.startswith("docs/"):
            name = PAGES.get(target, target.removeprefix("docs/"))
            if (_root(config) / target).is_file():
                return posixpath.relpath(name, posixpath.dirname(place) or ".") + end
        if not (_root(config) / target).exists():
            _log.warning("%s: %s leads nowhere", source, link)
        return f"{_source(_root(config))}/blob/main/{target}{end}"

    # What looks like a link in code is none.
    pieces = _CODE.split(markdown)
    return "".join(piece if number % 2 else _LINK.sub(turned, piece) for number, piece in enumerate(pieces))


@cache
def _source(root: Path) -> str:
    """Return the address of the repository, as `pyproject.toml` has it."""
    found = re.search(r'^Source = "(.+)"$', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError("pyproject.toml names no Source under [project.urls]")
    return found[1]


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent
