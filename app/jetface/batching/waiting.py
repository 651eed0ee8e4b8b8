"""What waits for a model: the fair queue, and how items leave it other than by a run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Generic, TypeVar

from jetface.batching.failures import deadline_exceeded, may_be_one_item, own_error, shutting_down
from jetface.batching.observer import DropReason, Observer
from jetface.batching.policy import FairQueue
from jetface.batching.submission import BatchOutcome, Entry, Submission
from jetface.deadlines import Deadlines
from jetface.errors import ServiceError

Item = TypeVar("Item")
Result = TypeVar("Result")


class WaitingItems(Generic[Item, Result]):
    """The items of one batcher that wait for a lane. Belongs to the event loop's thread."""

    def __init__(self, observer: Observer) -> None:
        self._queue: FairQueue[Entry[Item, Result]] = FairQueue()
        self._deadlines: Deadlines[Submission[Item, Result]] | None = None
        self._observer = observer

    def __len__(self) -> int:
        """Number of items that wait."""
        return len(self._queue)

    def add(self, entry: Entry[Item, Result]) -> None:
        """Let an item wait."""
        entry.submission.num_waiting += 1
        self._queue.add(entry)

    def take(self, limit: int, now: float) -> list[Entry[Item, Result]]:
        """Remove up to `limit` items that run next; none of them when all turn out to be unwanted.

        Those whose caller is gone or late are dropped here when their withdrawal has not had its turn of the loop yet.
        """
        taken = self._queue.take(limit)
        for entry in taken:
            if entry.submission.deadline <= now:
                self.expire(entry.submission)
            elif entry.submission.future.done():
                self.withdraw(entry.submission)
        wanted = [entry for entry in taken if not entry.submission.future.done()]
        for entry in wanted:
            entry.submission.num_waiting -= 1
        return wanted

    def has_full_batch(self, max_batch: int) -> bool:
        """Whether what runs next fills a batch."""
        return len(self._queue) >= max_batch and self._queue.count_next(max_batch) == max_batch

    def withdraw(self, submission: Submission[Item, Result]) -> None:
        """Take a submission's items out of the queue, its caller having been answered or gone away."""
        if not submission.num_waiting:
            return
        for entry in submission.entries:
            self._queue.discard(entry)
        self._observer.dropped(submission.gone_reason, submission.num_waiting)
        submission.num_waiting = 0

    def fail(self, submission: Submission[Item, Result], error: ServiceError, reason: DropReason) -> None:
        """Answer a submission's caller with `error`; what of it still waits is dropped."""
        submission.fail(error, reason)
        self.withdraw(submission)

    async def outcome_of(self, submission: Submission[Item, Result]) -> BatchOutcome[Result]:
        """Wait until a submission is answered, at its deadline at the latest; what of it waits then is withdrawn."""
        if self._deadlines is None:
            self._deadlines = Deadlines(asyncio.get_running_loop(), self.expire)
        self._deadlines.add(submission.deadline, submission)
        try:
            return await submission.future
        finally:
            self.withdraw(submission)
            submission.entries.clear()  # they know their submission: a cycle
            if submission.future.done() and not submission.future.cancelled():
                submission.future.exception()  # read, also when the caller was cancelled just after it was set

    def settle_failed(
        self, entries: Sequence[Entry[Item, Result]], error: BaseException, now: float, *, may_retry: bool
    ) -> bool:
        """Let each item of a failed run wait again, to run alone, or fail its caller; return which it was."""
        is_retried = may_retry and len(entries) > 1 and may_be_one_item(error)
        for entry in entries:
            if entry.submission.future.done():
                continue
            if is_retried:
                entry.key = object()  # equal to no other: it runs alone
                entry.queued_at = now
                self.add(entry)
            else:
                self.fail(entry.submission, own_error(error), "failed")
        return is_retried

    def expire(self, submission: Submission[Item, Result]) -> None:
        """Answer a caller whose deadline has passed."""
        self.fail(submission, deadline_exceeded(), "deadline")

    def shut_down(self) -> None:
        """Answer everybody who waits: the service stops."""
        for entry in self._queue.entries():
            self.fail(entry.submission, shutting_down(), "shutdown")
