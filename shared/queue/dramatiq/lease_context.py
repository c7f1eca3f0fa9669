"""The middleware that ties a broker's leases and threads to Dramatiq's worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq import Worker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware

from shared.queue.dramatiq.consumer import LeasedMessage
from shared.queue.dramatiq.lease import set_current_lease
from shared.queue.dramatiq.work_queue import WorkQueue

if TYPE_CHECKING:
    from shared.queue.dramatiq.broker import PriorityBroker


class LeaseContext(Middleware):
    """Sets `current_lease` around an actor, and starts and stops the broker's threads with the worker. Always first."""

    def __init__(self, broker: PriorityBroker) -> None:
        self._broker = broker

    @property
    def actor_options(self) -> set[str]:
        # The options of Retries that the settlement honours.
        return {"max_retries", "min_backoff", "max_backoff", "throws"}

    def before_worker_boot(self, broker: dramatiq.Broker, worker: Worker) -> None:
        worker.work_queue = WorkQueue()  # pyright: ignore[reportAttributeAccessIssue]
        self._broker.boot(worker.worker_threads)

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: Worker) -> None:
        self._broker.stop_acquiring()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: Worker) -> None:
        self._broker.shut_down()

    def before_process_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        if isinstance(message, LeasedMessage):
            set_current_lease(message.lease)

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        if isinstance(message, LeasedMessage):
            message.error = exception
        set_current_lease(None)

    def after_skip_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        set_current_lease(None)
