"""The queue's errors, for its callers."""

from __future__ import annotations

from shared.errors import ErrorCode, Unavailable


class QueueUnavailable(Unavailable):
    code = ErrorCode.QUEUE_UNAVAILABLE


class QueueFull(Unavailable):
    code = ErrorCode.QUEUE_UNAVAILABLE
