"""Reads every error code from the sources, without importing them: its sentences, its fixes and where it is raised.

A site is a call that is given a code: an error class itself, or a function that makes an error of the code and texts it
is given; the function's sentence is then completed with the texts of the call. What a program only knows when it runs
stands in braces, by the name it has in the code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("samora_pipeline", "dataset_conversion", "planners", "trainers")
CODE = re.compile(r"[EW]-[A-Z]+-\d+[a-z]?")

_PARTS = ("what", "found", "expected", "fix")
_MENTION = re.compile(rf"``({CODE.pattern})``")
_UNKNOWN = "{...}"
# A text that the sources only name tells a reader nothing.
_EMPTY = re.compile(r"\{[^{}]*\}")

Texts = dict[str, str]


@dataclass(frozen=True)
class Site:
    """One place that gives a code: the module, the error class (empty for remarks) and the texts by part."""

    module: str
    kind: str
    texts: Texts


@dataclass
class CodeFacts:
    """All that the sources say of one code: its sites, and what docstrings say of when it is raised."""

    sites: list[Site] = field(default_factory=list)
    when: list[str] = field(default_factory=list)

    def distinct(self, part: str) -> list[str]:
        """The different texts of a part, in the order of the sources."""
        texts = dict.fromkeys(site.texts.get(part, "") for site in self.sites)
        return [text for text in texts if text and not _EMPTY.fullmatch(text)]


def collect(root: Path) -> dict[str, CodeFacts]:
    """Every code of the packages below ``root``, sorted."""
    modules = [_Module(path, root) for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    constants = {(module.name, name): text for module in modules for name, text in module.constants.items()}
    facts: dict[str, CodeFacts] = {}
    for module in modules:
        for code, site in module.sites(constants):
            facts.setdefault(code, CodeFacts()).sites.append(site)
    for module in modules:
        for code, text in module.mentions():
            if code in facts and text not in facts[code].when:
                facts[code].when.append(text)
    return dict(sorted(facts.items()))


class _Module:
    """One source file: its functions, its constants that are texts, and what it imports from others."""

    def __init__(self, path: Path, root: Path) -> None:
        self.name = ".".join(path.relative_to(root).with_suffix("").parts)
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.functions = {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}
        self.imported = {
            alias.asname or alias.name: (node.module or "", alias.name)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        self.constants = {
            target.id: text
            for node in self.tree.body
            if isinstance(node, ast.Assign) and (text := _plain(node.value)) is not None
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def sites(self, constants: dict[tuple[str, str], str]) -> Iterator[tuple[str, Site]]:
        """Each code that a call is given."""
        known = {name: constants[origin] for name, origin in self.imported.items() if origin in constants}
        known |= self.constants
        for function in self.functions.values():
            yield from self._chosen(function, known)
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Call):
                continue
            for code in _codes(node):
                name = _last_name(node.func)
                own = self.functions.get(name)
                if own is None:
                    yield code, Site(self.name, name, _call_texts(node, known))
                else:
                    yield code, self._completed(own, node, known)
            if spoken := _spoken(node):
                yield spoken[0], Site(self.name, "", {"what": spoken[1]})

    def _completed(self, function: ast.FunctionDef, call: ast.Call, known: Texts) -> Site:
        """The error that a function makes of the texts of a call."""
        names = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
        given = dict(zip(names, call.args, strict=False))
        given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        texts = {name: _render(value, known) for name, value in given.items()}
        error = _error_of(function)
        if error is None:
            return Site(self.name, "", {part: texts[part] for part in _PARTS if part in texts})
        return Site(self.name, _last_name(error.func), _call_texts(error, {**known, **texts}))

    def _chosen(self, function: ast.FunctionDef, known: Texts) -> Iterator[tuple[str, Site]]:
        """Codes that a function keeps together with their sentence, before it makes an error of the pair."""
        error = _error_of(function)
        for node in ast.walk(function):
            pair = node.value.elts if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) else []
            if error is not None and len(pair) == 2 and CODE.fullmatch(code := _plain(pair[0]) or ""):
                texts = {**_call_texts(error, known), "what": _render(pair[1], known)}
                yield code, Site(self.name, _last_name(error.func), texts)

    def mentions(self) -> Iterator[tuple[str, str]]:
        """What docstrings say behind a code: the words up to the next code, or to the end of the sentence."""
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                continue
            text = " ".join((ast.get_docstring(node) or "").split())
            pieces = _MENTION.split(text)
            for code, behind in zip(pieces[1::2], pieces[2::2], strict=True):
                words = re.split(r"[.;](?:\s|$)|, (?:and|or) $|\w+Error: ?$", behind)[0].strip(" ,:()`")
                words = re.sub(r"^(?:for|when|where|if|with|without|as) ", lambda found: found[0], words)
                if len(words.split()) > 1 and not words.startswith(".."):
                    yield code, words


def _error_of(function: ast.FunctionDef) -> ast.Call | None:
    """The first error that a function makes."""
    calls = (node for node in ast.walk(function) if isinstance(node, ast.Call) and node.args)
    return next((call for call in calls if _last_name(call.func).endswith("Error")), None)


def _codes(call: ast.Call) -> list[str]:
    values = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "code")]
    return [text for value in values for option in _options(value) if CODE.fullmatch(text := _plain(option) or "")]


def _options(value: ast.expr) -> list[ast.expr]:
    """Both sides of a condition, or the one value."""
    return [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]


def _spoken(call: ast.Call) -> tuple[str, str] | None:
    """A code and a sentence in one text that a call is given."""
    for value in call.args:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            match = re.match(rf"({CODE.pattern}) (\S.+)", value.value)
            if match:
                return match[1], match[2].strip()
    return None


def _call_texts(call: ast.Call, known: Texts) -> Texts:
    """The texts of a call: the sentence follows the code (or what stands for it), the others have names."""
    place = next((index for index, value in enumerate(call.args) if CODE.fullmatch(_plain(value) or "")), 0)
    texts = {"what": _render(call.args[place + 1], known)} if len(call.args) > place + 1 else {}
    for keyword in call.keywords:
        if keyword.arg in _PARTS:
            texts[keyword.arg] = _render(keyword.value, known)
    return {part: " ".join(text.split()) for part, text in texts.items()}


def _render(node: ast.expr, known: Texts) -> str:
    """A text with braces around what is only known at run time."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_render(part, known) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _render(node.value, known)
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _render(node.left, known) + _render(node.right, known)
    if isinstance(node, ast.IfExp):
        return _render(node.body, known) or _render(node.orelse, known)
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        return _render(node.values[0], known)
    return _placeholder(node)


def _placeholder(node: ast.expr) -> str:
    """What stands for a value: the last two words of its name, so that ``case.name`` becomes {case name}."""
    if isinstance(node, ast.Call) and _last_name(node.func) in ("len", "sum"):
        return "{number}"
    words = re.findall(r"[A-Za-z]\w*", ast.unparse(node)) if _is_name(node) else []
    words = [word.strip("_").replace("_", " ") for word in words if word not in ("self", "arguments")]
    return f"{{{' '.join(words[-2:])}}}" if words else _UNKNOWN


def _is_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and _is_name(node.value))


def _plain(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
