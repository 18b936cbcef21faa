"""The blocks of the documentation's pages: commands, files and parts of configurations."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(file for pattern in ("*.md", "config/*.md", "docs/*.md") for file in ROOT.glob(pattern))
PAGES.remove(ROOT / "CHANGELOG.md")
# Titles of blocks whose commands no test can run.
MARKERS = ("needs a cluster", "needs a GPU", "needs the hub", "downloads packages")
MARKERS += ("removes files", "changes this clone")


class Block(NamedTuple):
    """A fenced block."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str

    @property
    def place(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self):
        """The words of each command of a block of the shell."""
        joined = self.text.replace("\\\n", " ")
        return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def blocks_of(page):
    """The fenced blocks of a page, also those within a list."""
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        if match := re.match(r"( *)(`{3,})(.*)$", lines[number]):
            indent, fence, info = match.groups()
            start = number + 1
            number = next(n for n in range(start, len(lines)) if lines[n].strip() == fence)
            text = "\n".join(line.removeprefix(indent) for line in lines[start:number])
            title = re.search(r'title="([^"]*)"', info)
            found.append(Block(page, start, info.split(" ")[0].strip(), title and title[1], text + "\n"))
        number += 1
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def files_of(page):
    """The files that a page has its reader write, by their paths; those of the tutorial where it has none."""
    titled = {b.title: b.text for b in BLOCKS if b.page == page and b.title and b.language in ("yaml", "json")}
    tutorial = ROOT / "docs" / "tutorial.md"
    return titled if page == tutorial else {**files_of(tutorial), **titled}
