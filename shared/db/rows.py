"""Rows as frozen structs: a query names the struct that it fills, and the SELECT list is made from its fields.

Values are checked against the types of the fields, so texts become enums and JSON becomes structs. Columns are always
named: a column that a migration adds changes nothing for processes of the version before it.
"""

from __future__ import annotations

from typing import LiteralString, TypeVar, cast

import msgspec
from psycopg.rows import BaseRowFactory, args_row, kwargs_row

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")


def columns_of(row: type[msgspec.Struct], table: LiteralString = "", **expressions: LiteralString) -> LiteralString:
    """The SELECT list that fills `row`: for each field its expression, or else `table`'s column of the same name."""
    names = cast("tuple[LiteralString, ...]", row.__struct_fields__)
    if unknown := expressions.keys() - set(names):
        raise TypeError(f"{row.__name__} has no fields {sorted(unknown)}")
    prefix = f"{table}." if table else ""
    return ", ".join(f"{expressions[name]} AS {name}" if name in expressions else prefix + name for name in names)


def struct_row(row: type[S]) -> BaseRowFactory[S]:
    """As `psycopg.rows.class_row`, with each value converted to its field's type.

    Raises msgspec.ValidationError when a column is missing or its value doesn't fit.
    """

    def make(**values: object) -> S:
        return msgspec.convert(values, row)

    return kwargs_row(make)


def value_row(type_: type[T]) -> BaseRowFactory[T | None]:
    """The only column of each row, converted to `type_`; None for NULL."""

    def make(value: object) -> T | None:
        return None if value is None else msgspec.convert(value, type_)

    return args_row(make)
