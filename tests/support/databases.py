"""Databases of a test's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from shared.stack.postgres import PostgresServer

_numbers = itertools.count(1)


@contextmanager
def fresh_database(postgres_server: PostgresServer, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    try:
        yield postgres_server.url_of(name)
    finally:
        with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
