"""Docstrings as they are written here, made reStructuredText: code in backticks, plain formulas."""

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

OURS = "lp_routing"
NAME = re.compile(r"[A-Za-z_][\w.]*")
SPAN = re.compile(r"(`+)(.+?)\1", re.DOTALL)
EMPHASIS = re.compile(r"(?<![\w*])\*(\w[^*\n]*)\*(?![\w*])")
BEFORE, AFTER = " \n`'\"([{<-/:", " \n'\")]}>-/:.,;!?"
LETTER = re.compile(r"^(\s*(?:\w+: )?)(\(?[A-Za-z][.)](?:\s|$))", re.MULTILINE)
SEVERAL = re.compile(r"^( +\w+(?:, \w+)+):(?= )", re.MULTILINE)


def as_restructured_text(text: str) -> str:
    """Docstring in, reStructuredText out; formulas stay as they stand.

    A name in backticks may become a link, other code never does. Outside of code nothing is markup
    but emphasis; a block that is indented after a blank line is a formula.
    """
    text = SEVERAL.sub(lambda match: match[1].replace(", ", ",") + ":", text)
    return _escaped(_with_formulas(text))


def _with_formulas(text: str) -> str:
    """Blocks indented after a blank line are marked as literal."""
    lines: list[str] = []
    last, formula_from = "", None
    for line in text.split("\n"):
        depth = len(line) - len(line.lstrip())
        if line.strip():
            blank_before = bool(lines) and not lines[-1].strip()
            if formula_from is not None and depth < formula_from:
                formula_from = None
            deeper = depth > len(last) - len(last.lstrip())
            if formula_from is None and blank_before and deeper and last:
                lines += [" " * (len(last) - len(last.lstrip())) + "::", ""]
                formula_from = depth
            last = line
        lines.append("\x00" + line if formula_from is not None and line.strip() else line)
    return "\n".join(lines)


def _escaped(text: str) -> str:
    blocks = re.split("(^\x00.*$)", text, flags=re.MULTILINE)
    return "".join(
        block[1:] if block.startswith("\x00") else _escaped_prose(block) for block in blocks
    )


def _escaped_prose(text: str) -> str:
    out, end = [], 0
    for span in SPAN.finditer(text):
        before, after = text[max(span.start() - 1, 0)], text[span.end() : span.end() + 1]
        out += [_plain(text[end : span.start()]), _code(span[2], before, after)]
        end = span.end()
    return "".join([*out, _plain(text[end:])])


def _code(code: str, before: str, after: str) -> str:
    """Markup begins and ends beside blanks and some punctuation only; elsewhere `\\ ` parts."""
    code = " ".join(code.split())
    left = "" if before in BEFORE else "\\ "
    right = "" if after in AFTER else "\\ "
    return left + (f"`{code}`" if NAME.fullmatch(code) else f"``{code}``") + right


def _plain(text: str) -> str:
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\x01{len(kept) - 1}\x01"

    text = EMPHASIS.sub(keep, text)
    text = re.sub(r"([\\*|])", r"\\\1", text)
    text = re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)
    text = LETTER.sub(r"\1\\\2", text)  # "M." is no item of a list
    return re.sub("\x01(\\d+)\x01", lambda match: kept[int(match[1])], text)


def _docstring(
    _app: Sphinx, what: str, _name: str, _obj: Any, _options: Any, lines: list[str]
) -> None:
    lines[:] = as_restructured_text("\n".join(lines)).split("\n")
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # a comment, or napoleon takes what stands before a colon for a type


def _resolved(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Node | None:
    """A name by its last part, where that is one thing; other packages' names stay plain."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    domain = env.domains.python_domain
    last = target.rpartition(".")[2]
    found = sorted(
        (name, entry)
        for name, entry in domain.objects.items()
        if name.rpartition(".")[2] == last and not entry.aliased
    )
    ours = target.startswith(f"{OURS}.") or "." not in target
    if ours and len({entry.node_id for _, entry in found}) == 1:
        (_, entry), *_ = found
        assert app.builder is not None
        uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
        link = nodes.reference("", "", internal=True, refuri=f"{uri}#{entry.node_id}")
        link.append(contnode)
        return link
    if node["reftype"] == "obj" or not ours:
        return contnode
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's entry."""
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # before napoleon's 500
    app.connect("missing-reference", _resolved)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
