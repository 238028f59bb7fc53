"""One self-contained page: sections to HTML with everything embedded and nothing allowed to be fetched."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from samora_pipeline.reporting.html_blocks import Section, Viewer, cell


@dataclass(frozen=True)
class Page:
    """A report: its title, the sentences that answer first, what must be said of its data, and its sections.

    ``explanations`` are of the ``warnings``; ``facts`` are pairs of a name and a value under the title.
    """

    title: str
    headline: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    explanations: tuple[str, ...]
    sections: tuple[Section, ...]


def render_page(page: Page) -> str:
    """Return the page as HTML.

    Every text is escaped. A content-security policy lets the browser run the page's own script and style, known by
    their digests, show embedded pictures, and fetch nothing.
    """
    environment = environment_of_pages()
    style, script = (environment.get_template(name).render() for name in ("report.css", "report.js"))
    viewers = [block for section in page.sections for block in section.blocks if isinstance(block, Viewer)]
    return environment.get_template("report.html.j2").render(
        page=page, style=Markup(style), script=Markup(script), data=Markup(_data(viewers))
    )


@cache
def environment_of_pages() -> Environment:
    """What pages are made with: every text is escaped, and a name that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("samora_pipeline.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell
    environment.filters["digest"] = _digest
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _data(viewers: Sequence[Viewer]) -> str:
    """The slices of all viewers."""
    return embedded_json({viewer.name: viewer.slices for viewer in viewers})


def embedded_json(plain: object) -> str:
    """Plain values as JSON that cannot end the element it stands in."""
    return json.dumps(plain, ensure_ascii=True).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
