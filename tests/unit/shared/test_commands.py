"""Commands of projects: what is let through and what is said about the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.projects.commands import MAXIMUM_COMMAND_LENGTH, find_command_problem


@pytest.mark.parametrize(
    "command",
    [
        "npm ci",
        "npm run build",
        "node build.js",
        "python3 build.py",
        "npm ci --legacy-peer-deps && npm run build -- --base=/a/",
        "npm run a&&npm run b",
        "NODE_ENV=production npm run build",
        "A=1 B='two words' node build.js",
        'node -e "process.exit(3)"',
        "node -e 'console.log(1 | 2); process.exit(3)'",
        "cd docs && mkdocs build",
        "hugo --minify --baseURL $CLOUDIFY_URL",
        "sphinx-build -b html docs _build/html",
        "./build.sh --fast",
        "node_modules/.bin/vite build",
        "sh build.sh",
        "rm -rf dist && mkdir dist",
        "  npm   run   build  ",
        'echo "a \\" && b"',
        "uv pip install 'pelican[markdown]'",
    ],
)
def test_commands_of_real_projects_are_allowed(command: str) -> None:
    assert find_command_problem(command) is None


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("npm " + "a" * MAXIMUM_COMMAND_LENGTH, "longer than"),
        ("npm run build\nrm -rf x", "line break"),
        ("npm run build\0", "control character"),
        ("npm\trun", "control character"),
        ("curl https://example.invalid", "`curl`"),
        ("wget x && npm run build", "`wget`"),
        ("npm run build && sudo id", "`sudo`"),
        ("/bin/ls", "`/bin/ls`"),
        ("./../escape.sh", "not an allowed program"),
        ("npm run build; id", "`;`"),
        ("npm run build | tee log", "`|`"),
        ("npm run build || true", "`|`"),
        ("npm run build & id", "`&`"),
        ("npm run build > /output", "`>`"),
        ("node < script", "`<`"),
        ("(npm run build)", "`(`"),
        ("npm run $(id)", "substitution"),
        ("npm run `id`", "substitution"),
        ('npm run "$(id)"', "substitution"),
        ('npm run "`id`"', "substitution"),
        ("npm run 'build", "quotation mark"),
        ("npm ci &&", "no program"),
        ("&& npm ci", "no program"),
        ("A=1", "no program"),
        ("PATH=/tmp node x", "PATH"),
        ("LD_PRELOAD=x.so node x", "LD_PRELOAD"),
        ("sh -c id", "`sh -c`"),
        ("bash -xec id", "`bash -c`"),
        ("rm -rf /", "outside the repository"),
        ("rm -rf ../other", "outside the repository"),
        ("bash -x /dev/tcp/10.0.0.1/80", "/dev/tcp/"),
        ("$PROGRAM build", "`$PROGRAM`"),
        ("'' build", "``"),
    ],
)
def test_everything_else_is_refused_with_what_is_wrong(command: str, words: str) -> None:
    problem = find_command_problem(command)
    assert problem is not None
    assert words in problem


@given(st.text(alphabet="npmx '\"\\$`;|&<>()=/.\n", max_size=40))
def test_no_text_breaks_the_check_and_no_operator_but_one_gets_through(text: str) -> None:
    problem = find_command_problem(f"npm {text}")
    if problem is None and not set(text) & set("'\"\\"):
        assert not set(text) & set("`;|<>()\n")
        assert "&" not in text.replace("&&", "")
