"""Refuses the words of `tests/architecture/words.toml` in prose: `make lint` runs it.

Prose is comments, strings, names of tests, and Markdown.

    python -m tests.support.words [--count] PATH...

A comment `words: allow REASON` allows the line that it is on (`<!-- words: allow REASON -->` in Markdown), and after a
string of several lines all of that string. Exits with 1 if words are found.
"""

from __future__ import annotations

import argparse
import io
import itertools
import re
import sys
import token
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORDS = ROOT / "tests" / "architecture" / "words.toml"
_SUFFIXES = {".css", ".html", ".js", ".lua", ".md", ".py", ".sh", ".sql", ".toml", ".yaml", ".yml"}
_NAMES = {"Caddyfile", "Dockerfile", "Makefile"}
# Inputs of builds, migrations (which may not be edited once they have run), and files outside of the repository.
_SKIPPED = {"fixtures", "sample_site", "migrations", "node_modules", "__pycache__", "words.toml"}
_ALLOW = re.compile(r"(?:#|--|//) words: allow\b(?P<reason>[^\n]*)")
_COMMENT_SIGNS = re.compile(r"^[ \t]*(?:#+|--+|//+)", re.MULTILINE)
_TEST_NAME = re.compile(r"^[ \t]*(?:async )?def (test_\w+)", re.MULTILINE)
# FSTRING_MIDDLE is new in Python 3.12; before, an f-string is one STRING.
_STRINGS = {token.STRING, getattr(token, "FSTRING_MIDDLE", token.STRING)}


@dataclass(frozen=True)
class Rule:
    pattern: re.Pattern[str]
    instead: str

    @classmethod
    def of(cls, pattern: str, instead: str) -> Rule:
        """`pattern` is a regular expression for whole words; a space in it matches any white space."""
        spaced = pattern.replace(" ", r"\s+")
        return cls(re.compile(rf"\b(?:{spaced})\b", re.IGNORECASE), instead)


@dataclass(frozen=True)
class WordList:
    rules: tuple[Rule, ...]

    @classmethod
    def load(cls, path: Path = WORDS) -> WordList:
        content = tomllib.loads(path.read_text())
        return cls(tuple(itertools.starmap(Rule.of, content["words"].items())))


@dataclass(frozen=True)
class Finding:
    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Prose:
    """A file's words at the positions that they have in the file; Python's code is replaced by NUL characters.

    `markers`: line and text of each comment that may allow a line. `blocks`: first and last line of each string of
    several lines.
    """

    text: str
    markers: tuple[tuple[int, str], ...]
    blocks: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, path: Path, source: str) -> Prose:
        if path.suffix == ".py":
            return cls.of_python(source)
        lines = tuple(enumerate(source.split("\n"), start=1))
        return cls(_COMMENT_SIGNS.sub(lambda signs: " " * len(signs[0]), source), lines)

    @classmethod
    def of_python(cls, source: str) -> Prose:
        offsets = list(itertools.accumulate(map(len, io.StringIO(source)), initial=0))
        # White space stays, so that a phrase is found where a comment wraps.
        text = list(re.sub(r"\S", "\0", source))
        for name in _TEST_NAME.finditer(source):
            text[name.start(1) : name.end(1)] = name[1].replace("_", " ")
        markers: list[tuple[int, str]] = []
        blocks: list[tuple[int, int]] = []
        for part in tokenize.generate_tokens(io.StringIO(source).readline):
            if part.type not in {token.COMMENT, *_STRINGS}:
                continue
            (first, column), (last, end) = part.start, part.end
            begin, stop = offsets[first - 1] + column, offsets[last - 1] + end
            text[begin:stop] = source[begin:stop]
            if part.type == token.COMMENT:
                text[begin] = " "
                markers.append((first, part.string))
            elif last > first:
                blocks.append((first, last))
        return cls("".join(text), tuple(markers), tuple(blocks))

    def line_of(self, position: int) -> int:
        return self.text.count("\n", 0, position) + 1

    def lines_allowed_by(self, line: int) -> set[int]:
        return {line}.union(*(range(first, last + 1) for first, last in self.blocks if last == line))


def check(path: Path, name: str, rules: Iterable[Rule]) -> list[Finding]:
    """The refused words of a file, which is called `name` in the findings, in the order of its lines."""
    prose = Prose.of(path, path.read_text())
    findings = [
        Finding(name, prose.line_of(match.start()), f'"{" ".join(match[0].split())}": {rule.instead}')
        for rule in rules
        for match in rule.pattern.finditer(prose.text)
    ]
    for line, comment in prose.markers:
        marker = _ALLOW.search(comment)
        if marker is None:
            continue
        allowed = prose.lines_allowed_by(line)
        if not re.search(r"\w", marker["reason"]):
            findings.append(Finding(name, line, '"words: allow" needs a reason'))
        elif all(finding.line not in allowed for finding in findings):
            findings.append(Finding(name, line, '"words: allow" allows nothing here'))
        else:
            findings = [finding for finding in findings if finding.line not in allowed]
    return sorted(findings, key=lambda finding: finding.line)


def files_of(paths: Iterable[Path]) -> Iterator[Path]:
    """Files to check in the folders among `paths`, and each file that is named itself."""
    for path in paths:
        if path.is_file():
            yield path
            continue
        for file in sorted(path.rglob("*")):
            is_text = file.suffix in _SUFFIXES or file.name in _NAMES
            if is_text and file.is_file() and not _SKIPPED.intersection(file.relative_to(path).parts):
                yield file


def _print_counts(findings: Iterable[Finding]) -> None:
    counts = Counter("/".join(Path(finding.path).parts[:2]) for finding in findings)
    for folder, count in sorted(counts.items()):
        print(f"{count:6} {folder}")
    print(f"{counts.total():6} in all")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.words", description="Refuses odd words.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--count", action="store_true", help="print the count of each folder instead")
    options = parser.parse_args(arguments)
    words = WordList.load()
    findings = [
        finding
        for file in files_of(path.resolve() for path in options.paths)
        for finding in check(file, file.relative_to(ROOT).as_posix(), words.rules)
    ]
    if options.count:
        _print_counts(findings)
        return 0
    print(*findings, sep="\n", end="\n" if findings else "")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
