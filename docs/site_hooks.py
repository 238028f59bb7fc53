"""Adds the generated pages to the site (a hook of MkDocs, named in mkdocs.yml)."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import site_reference as reference

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_ABOVE = {"index.md": "README.md", "reproduce.md": "REPRODUCE.md", "changelog.md": "CHANGELOG.md"}
"""pages that lie above docs in the repository"""
_LINK = re.compile(r"\]\((?P<path>[\w./]+?)(?P<anchor>#[\w-]+)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file of docs holds."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def pages() -> dict[str, str]:
    """The text of each generated page by its place in the site."""
    made = {name: from_above((reference.ROOT / source).read_text(encoding="utf-8")) for name, source in _ABOVE.items()}
    made["reference/commands.md"] = reference.commands_page()
    made["reference/formats.md"] = reference.formats_page()
    for package, names in reference.modules().items():
        made[f"reference/python/{package}.md"] = reference.module_page(package, names)
    return made


def from_above(text: str) -> str:
    """A page from the root of the repository with links as they are inside docs; what is no page loses its link."""
    below = {source: name for name, source in _ABOVE.items()}

    def link(found: re.Match[str]) -> str:
        path, anchor = found["path"], found["anchor"] or ""
        if path.startswith("docs/"):
            return f"]({path.removeprefix('docs/')}{anchor})"
        return f"]({below[path]}{anchor})" if path in below else found.group()

    text = re.sub(r"\[([^\]]+)\]\((?!docs/|https?:|REPRODUCE|CHANGELOG|README)[^)]+\)", r"\1", text)
    return _LINK.sub(link, text)
