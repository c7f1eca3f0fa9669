"""What can go wrong with the stack, said in one sentence each."""

from __future__ import annotations


class StackError(Exception):
    """The stack can't start or go on; the message says why and what to do."""


class BusyPort(StackError):
    """A port that people were told about belongs to another program."""
