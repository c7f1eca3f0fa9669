"""Errors of the stack. Each message is one sentence."""

from __future__ import annotations


class StackError(Exception):
    """The stack can't start or continue. The message tells why and what to do."""


class BusyPort(StackError):
    """Another program uses a public port."""
