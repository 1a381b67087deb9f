"""Pages of `lp-routing report`: made by the command, then taken apart."""

import re
from html.parser import HTMLParser

import numpy as np
import torch
from click.testing import CliRunner

from lp_routing.claims import CLAIMS
from lp_routing.cli.commands import report
from tests.commands import with_k

FEW = (CLAIMS[0], CLAIMS[3])
LOADS = {
    "src",
    "srcset",
    "data",
    "poster",
    "action",
    "formaction",
    "background",
    "ping",
    "xlink:href",
}
EMPTY = {"meta", "link", "img", "br", "hr", "input"}


class Read(HTMLParser):
    """A page taken apart: tags with attributes, text by section, tables as cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sections, self.tables, self.scripts, self.styles = [], {}, [], [], []
        self.open, self.section = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append((tag, given))
        if tag not in EMPTY:
            self.open.append(tag)
        if tag == "section":
            self.section = given["id"]
        if tag == "table":
            self.tables.append((self.section, []))
        if tag == "tfoot":  # means, apart from the rows
            self.tables.append((f"{self.section} foot", []))
        if tag == "tr":
            self.tables[-1][1].append([])
        if tag in ("th", "td"):
            value = given.get("data-value")
            self.tables[-1][1][-1].append(["", None if value is None else float(value)])

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "tags are not nested"

    def handle_data(self, data):
        into = (
            {"script": self.scripts, "style": self.styles}.get(self.open[-1]) if self.open else None
        )
        if into is not None:
            into.append(data)
        elif "svg" not in self.open:
            self.sections[self.section] = self.sections.get(self.section, "") + data
            if self.open[-1:] and {"th", "td"} & set(self.open):
                self.tables[-1][1][-1][-1][0] += data

    def foot(self, section, place=0):
        """Texts of the rows below a table."""
        rows = [rows for where, rows in self.tables if where == f"{section} foot"][place]
        return [[text.strip() for text, _ in row] for row in rows]

    def words(self, section):
        return " ".join(self.sections[section].split())

    def table(self, section, place=0):
        """Rows of a table, column -> (text, value)."""
        head, *rows = [rows for where, rows in self.tables if where == section][place]
        names = [text.strip() for text, _ in head]
        return [
            {name: (text.strip(), value) for name, (text, value) in zip(names, row, strict=True)}
            for row in rows
        ]


def run(*arguments):
    return CliRunner().invoke(report, with_k(arguments))


def made(path, *arguments, status=0):
    """The page that a command makes, taken apart."""
    ended = run("-o", path, *arguments)
    assert ended.exit_code == status, ended.output + str(ended.exception)
    return Read(path.read_text())


def loaded(read):
    """Addresses that a browser would ask something of."""
    found = [
        (tag, address)
        for tag, given in read.tags
        for name, address in given.items()
        if name in LOADS or (name == "href" and tag != "a")
    ]
    css = "".join(read.styles) + "".join(given.get("style") or "" for _, given in read.tags)
    found += [("style", address) for address in re.findall(r"url\(\s*['\"]?([^)'\"]*)", css)]
    found += [("style", rule) for rule in re.findall(r"@import[^;]*|@font-face", css)]
    return [(tag, address) for tag, address in found if not re.match(r"#|data:", address)]


def patch_quick(monkeypatch):
    """Two claims, and figures that are made but not drawn: `test_plots.py` looks at those."""
    monkeypatch.setattr("lp_routing.cli.report.CLAIMS", FEW)
    monkeypatch.setattr(
        "lp_routing.report.figures.as_svg", lambda _, *, prefix: f'<svg id="{prefix}"></svg>'
    )


def save_small(folder):
    """A file of one layer of 8 tokens and 3 experts."""
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    np.savez(folder / "small.npz", router_logits=logits.numpy())
    return folder / "small.npz"


def fails(*_, **__):
    raise ZeroDivisionError("by nothing")
