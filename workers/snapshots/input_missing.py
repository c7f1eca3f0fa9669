"""The error of a stored stage output that is lost or damaged."""

from __future__ import annotations

from shared.errors import PlatformError


class InputMissing(PlatformError):
    """What an earlier stage stored is lost or damaged: that stage has to run again.

    `digest` is what the stage recorded of it.
    """

    def __init__(self, digest: str, message: str) -> None:
        super().__init__(message)
        self.digest = digest
