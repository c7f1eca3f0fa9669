"""Migrations leave what the version before theirs uses, unless a marker says why they may not."""

from __future__ import annotations

import re

import pytest

from shared.db.migrate import migrations
from shared.db.schema_version import FIRST_MIGRATIONS, SCHEMA_VERSION, version_of

# No version was released with the ones before, and they can't be changed any more.
_FIRST_CHECKED = "0014"
_MARKER = re.compile(r"^-- (Contract|Compatible): (.+)$", re.MULTILINE)
# In a migration, a table of its own may be changed at will.
_CREATED = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", re.IGNORECASE)
_TABLE = re.compile(r"(?:ALTER TABLE|ON) (?:ONLY )?(\w+)", re.IGNORECASE)
# What it does to processes of the version before → how it looks.
_REMOVALS = {
    "deletes what they use": r"\bDROP (TABLE|VIEW|MATERIALIZED VIEW|TYPE|FUNCTION|TRIGGER|SEQUENCE|SCHEMA|COLUMN)\b",
    "takes a name away that they use": r"\bRENAME\b",
    "changes the type that they expect": r"\bALTER (COLUMN )?\w+ (SET DATA )?TYPE\b",
    "empties what they read": r"\b(TRUNCATE|DELETE FROM)\b",
}
_RESTRICTIONS = {
    "refuses rows that they write": r"\b(SET NOT NULL|ADD (CONSTRAINT|CHECK|UNIQUE|FOREIGN KEY)|CREATE UNIQUE INDEX)\b",
    "no longer fills in what they leave out": r"\bDROP DEFAULT\b",
}


def dangers(sql: str) -> list[tuple[str, str]]:
    """The marker that each statement needs, and what it does to processes of the version before."""
    created = {name.lower() for name in _CREATED.findall(sql)}
    found: list[tuple[str, str]] = []
    # The text of functions, then comments.
    plain = re.sub(r"--[^\n]*", "", re.sub(r"\$\$.*?\$\$", "", sql, flags=re.DOTALL))
    for statement in plain.split(";"):
        table = _TABLE.search(statement)
        if table is not None and table[1].lower() in created:
            continue
        found += [("Contract", text) for text, form in _REMOVALS.items() if re.search(form, statement, re.IGNORECASE)]
        found += [
            ("Compatible", text) for text, form in _RESTRICTIONS.items() if re.search(form, statement, re.IGNORECASE)
        ]
        for column in re.split(r",(?=\s*ADD\b)", " ".join(statement.upper().split())):
            if re.search(r"ADD COLUMN .*NOT NULL", column) and not re.search(r"\bDEFAULT\b", column):
                found.append(("Compatible", "wants a value that they don't write"))
    return found


def problems(sql: str, version: int) -> list[str]:
    """What is wrong with a migration of this version of the schema."""
    markers = dict(_MARKER.findall(sql))
    found = [f"{text}: needs a line `-- {marker}: …`" for marker, text in dangers(sql) if marker not in markers]
    contract = markers.get("Contract")
    if contract is not None:
        unused_since = re.match(r"version (\d+) ", contract)
        if unused_since is None:
            found.append("`-- Contract:` begins with the version that stopped using it: `-- Contract: version 3 …`")
        elif int(unused_since[1]) >= version:
            found.append("the version that stops using something can't remove it, too: the one before still runs")
    return found


@pytest.mark.parametrize(("name", "sql"), [entry for entry in migrations() if entry[0] >= _FIRST_CHECKED] or [("", "")])
def test_a_migration_leaves_what_the_version_before_uses(name: str, sql: str) -> None:
    assert problems(sql, version_of(name)) == [], name


def test_versions_begin_with_migrations_that_exist() -> None:
    assert list(FIRST_MIGRATIONS) == sorted(set(FIRST_MIGRATIONS))
    names = [name for name, _ in migrations()]
    assert [any(name.startswith(first) for name in names) for first in FIRST_MIGRATIONS] == [True] * SCHEMA_VERSION
    assert [version_of(name) for name in (names[0], names[-1])] == [1, SCHEMA_VERSION]


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE projects ADD COLUMN a text, ADD COLUMN b boolean NOT NULL DEFAULT false;",
        "CREATE TABLE t (id text PRIMARY KEY); CREATE UNIQUE INDEX i ON t (id); ALTER TABLE t ADD CHECK (id <> '');",
        "-- DROP TABLE projects\nCREATE INDEX i ON projects (name);",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM x; RETURN NULL; END $$;",
        "-- Contract: version 1 writes no image.\nALTER TABLE users DROP COLUMN image;",
        "-- Compatible: no version writes an empty name.\nALTER TABLE users ADD CONSTRAINT c CHECK (name <> '');",
        "ALTER TYPE stage ADD VALUE 'test' BEFORE 'upload';",
    ],
)
def test_what_a_migration_may_do(sql: str) -> None:
    assert problems(sql, 2) == []


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE users DROP COLUMN image;",
        "-- Compatible: it is not.\nALTER TABLE users DROP COLUMN image;",
        "-- Contract: version 2 writes no image.\nALTER TABLE users DROP COLUMN image;",
        "-- Contract: nobody reads it.\nALTER TABLE users DROP COLUMN image;",
        "ALTER TABLE users RENAME image TO picture;",
        "ALTER TABLE users ALTER COLUMN image TYPE bytea USING image::bytea;",
        "ALTER TABLE users ALTER image SET NOT NULL;",
        "ALTER TABLE users ADD COLUMN a text NOT NULL, ADD COLUMN b text DEFAULT '';",
        "CREATE UNIQUE INDEX i ON users (name);",
        "DROP VIEW live_api_tokens;",
        "CREATE TABLE t (id text); DROP TABLE users;",
    ],
)
def test_what_a_migration_may_not_do(sql: str) -> None:
    assert problems(sql, 2) != []
