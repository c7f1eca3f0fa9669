"""Validates the install and build commands of projects.

The sandbox isolates commands. This check only tells users early that a command can't work here, and rejects typing
errors and pasted shell tricks. Nothing relies on it for isolation.
"""

from __future__ import annotations

import re

from shared.text.written import is_written_text

MAXIMUM_COMMAND_LENGTH = 1000

_PACKAGE_MANAGERS = "npm npx pnpm pnpx yarn bun bunx corepack pip pip3 uv uvx poetry pipenv bundle"
_RUNTIMES = "node deno tsc tsx python python3 make sh bash"
# With every command of workers/frameworks/catalogue.py, which a test compares.
_SITE_GENERATORS = (
    "vite next nuxt nuxi astro svelte-kit gatsby docusaurus vitepress vuepress eleventy ng react-scripts"
    " vue-cli-service remix react-router vinxi qwik vike waku rspress dumi hexo observable slidev honkit antora quasar"
    " ember preact umi gridsome react-static sapper stencil rsbuild storybook webpack rollup esbuild parcel turbo nx"
    " lerna hugo mkdocs zensical sphinx-build jupyter-book jb myst nikola pelican"
    " jekyll middleman bridgetown zola lume mdbook quarto gulp grunt tailwindcss sass postcss"
)
_SMALL_TOOLS = "cd echo printf cat cp mv mkdir rm touch ls test true false env cross-env rimraf find sed"
ALLOWED_PROGRAMS = frozenset(f"{_PACKAGE_MANAGERS} {_RUNTIMES} {_SITE_GENERATORS} {_SMALL_TOOLS}".split())

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_FORBIDDEN_ASSIGNMENTS = ("PATH=", "LD_PRELOAD=", "LD_LIBRARY_PATH=", "IFS=")
_FORBIDDEN_TEXTS = ("/dev/tcp/", "/dev/udp/", "/proc/self", "169.254.169.254")


class _Refused(Exception):
    """The message describes the problem in one sentence."""


def find_command_problem(text: str) -> str | None:
    """Returns one sentence that says what is wrong with the command and what to do, or None if it is valid.

    Allowed: one program with arguments, or several joined with `&&`; `NAME=value` before a program; `$NAME` in
    arguments. Everything else (pipes, redirections, `;`, substitutions) belongs in a script of the repository.
    """
    if not text.strip():
        return "is empty; leave it unset to have it detected."
    if len(text) > MAXIMUM_COMMAND_LENGTH:
        return f"is longer than {MAXIMUM_COMMAND_LENGTH} characters; put it into a script and run that."
    if not is_written_text(text):
        return "contains a line break or another control character; join commands with && on one line."
    for forbidden in _FORBIDDEN_TEXTS:
        if forbidden in text:
            return f"contains {forbidden}, which is not allowed."
    try:
        for words in _split(text):
            _check_words(words)
    except _Refused as refusal:
        return str(refusal)
    return None


def _split(text: str) -> list[list[str]]:
    """Splits at `&&` into lists of words without quotes. Raises _Refused for every other shell operator."""
    # One piece: each branch is a case of one scan, and all share its position, word and quote.
    parts: list[list[str]] = [[]]
    word: str | None = None
    quote = ""
    position = 0
    while position < len(text):
        character = text[position]
        following = text[position + 1 : position + 2]
        position += 1
        if quote != "'" and (character == "`" or (character == "$" and following == "(")):
            raise _Refused("uses command substitution, which is not allowed; put it into a script and run that.")
        if quote:
            if character == quote:
                quote = ""
                continue
            if character == "\\" and quote == '"' and following in ('"', "\\", "$"):
                character, position = following, position + 1
            word = (word or "") + character
        elif character in "'\"":
            quote, word = character, word or ""
        elif character == "\\":
            word, position = (word or "") + following, position + 1
        elif character == "&" and following == "&":
            _end_word(parts[-1], word)
            word, position = None, position + 1
            parts.append([])
        elif character in ";|&<>()":
            raise _Refused(
                f"contains `{character}`, which is not allowed; only && joins commands."
                " Put it into a script of the repository and run that."
            )
        elif character == " ":
            _end_word(parts[-1], word)
            word = None
        else:
            word = (word or "") + character
    if quote:
        raise _Refused("has a quotation mark that is not closed.")
    _end_word(parts[-1], word)
    return parts


def _end_word(words: list[str], word: str | None) -> None:
    if word is not None:
        words.append(word)


def _check_words(words: list[str]) -> None:
    while words and _ASSIGNMENT.match(words[0]):
        if words[0].startswith(_FORBIDDEN_ASSIGNMENTS):
            raise _Refused(f"sets {words[0].partition('=')[0]}, which is not allowed.")
        words = words[1:]
    if not words:
        raise _Refused("has no program on one side of &&.")
    program, arguments = words[0], words[1:]
    is_script = program.startswith(("./", "node_modules/.bin/")) and ".." not in program.split("/")
    if program not in ALLOWED_PROGRAMS and not is_script:
        raise _Refused(
            f"runs `{program}`, which is not an allowed program; use one such as npm, npx, node, python3, uv, hugo or"
            " mkdocs, or a script of the repository such as ./build.sh."
        )
    if program in ("sh", "bash") and any(re.fullmatch(r"-[a-z]*c", argument) for argument in arguments):
        raise _Refused(f"passes code to `{program} -c`, which is not allowed; put it into a script and run that.")
    if program in ("rm", "mv") and any(argument.startswith(("/", "~", "..")) for argument in arguments):
        raise _Refused(f"uses `{program}` outside the repository; only paths inside it can be named.")
