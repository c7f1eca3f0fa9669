"""How a job ends, as a value: the code that runs it returns one, and `workers/jobs/settle.py` acts on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from shared.deployments.state import Stage

ResultT_co = TypeVar("ResultT_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Succeeded(Generic[ResultT_co]):
    """`result` is None if an earlier run of the job has recorded it."""

    name: ClassVar[str] = "succeeded"
    result: ResultT_co | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The user can fix it, or the platform has given up (`is_given_up`). `code` is one of shared.errors.FailureCode."""

    name: ClassVar[str] = "failed"
    code: str
    message: str
    is_given_up: bool = False


@dataclass(frozen=True, slots=True)
class Ignored:
    """There is nothing to build."""

    name: ClassVar[str] = "ignored"
    reason: str


@dataclass(frozen=True, slots=True)
class Rerun:
    """The stored output of an earlier stage is lost: that stage runs again."""

    name: ClassVar[str] = "rerun"
    stage: Stage
    message: str


@dataclass(frozen=True, slots=True)
class Retry:
    """A part of the platform failed. `kind` names the failure for the user, `message` explains it to operators.

    Without `delay_seconds` the job waits as long as its number of attempts asks for.
    """

    name: ClassVar[str] = "retrying"
    kind: str
    message: str
    delay_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class HandedBack:
    """Handed back: the job keeps its place and isn't charged an attempt. The worker stops, or waits for something."""

    name: ClassVar[str] = "released"
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Handed back, and its slot is given up: the tenant's plan has no free place."""

    name: ClassVar[str] = "waiting"
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The user has cancelled the deployment."""

    name: ClassVar[str] = "cancelled"


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing is left to do: the job's subject has ended or was deleted."""

    name: ClassVar[str] = "over"


@dataclass(frozen=True, slots=True)
class Lost:
    """Another worker holds the job now: nothing more may be written."""

    name: ClassVar[str] = "lost"


Outcome = Succeeded[ResultT_co] | Failed | Ignored | Rerun | Retry | HandedBack | Waiting | Cancelled | Over | Lost
