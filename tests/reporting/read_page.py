"""A page taken apart."""

from __future__ import annotations

from html.parser import HTMLParser


class ReadPage(HTMLParser):
    """A page taken apart: every element with its attributes, the rows of each table, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: list[str] = []
        self.raw: dict[str, str] = {}
        self._open: list[str] = []
        self._table = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.elements.append((tag, known))
        if tag in ("script", "style"):
            self._open.append(known.get("id", tag))
        if tag == "table":
            self._table = known["id"]
            self.tables[self._table] = []
        elif tag == "tr" and self._table:
            self.tables[self._table].append([])
        elif tag in ("td", "th") and self._table:
            self.tables[self._table][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._open.pop()
        if tag == "table":
            self._table = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.raw[self._open[-1]] = self.raw.get(self._open[-1], "") + data
            return
        self.texts.append(data)
        if self._table and self.tables[self._table] and self.tables[self._table][-1]:
            self.tables[self._table][-1][-1] += data.strip()

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        """Everything that is shown."""
        return " ".join(" ".join(self.texts).split())
