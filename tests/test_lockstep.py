"""Batches out of threads."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from memalpha_jax.chat.lockstep import Lockstep


def run_threads(lengths: list[int], fail_at: int = -1) -> tuple[list[list[int]], list[list[str]]]:
    """Row r asks `lengths[r]` times, at random moments; the rows of each batch and the replies of each row."""
    batches: list[list[int]] = []

    def run(requests):
        batches.append(list(requests))
        if len(batches) - 1 == fail_at:
            raise RuntimeError("no batch today")
        return {row: f"{row}:{request}" for row, request in requests.items()}

    lockstep: Lockstep[int, str] = Lockstep(run, len(lengths))

    def work(row: int) -> list[str]:
        try:
            replies = []
            for i in range(lengths[row]):
                time.sleep(random.random() / 500)
                replies.append(lockstep.ask(row, i))
            return replies
        finally:
            lockstep.leave(row)
            lockstep.leave(row)

    with ThreadPoolExecutor(len(lengths)) as pool:
        return batches, list(pool.map(work, range(len(lengths))))


@pytest.mark.parametrize("lengths", [[3], [4, 4, 4], [1, 5, 2, 0, 5]])
def test_batches_depend_on_the_work_and_not_on_timing(lengths):
    expected = [[row for row, n in enumerate(lengths) if n > i] for i in range(max(lengths))]
    for _ in range(5):
        batches, replies = run_threads(lengths)
        assert batches == expected
        assert replies == [[f"{row}:{i}" for i in range(n)] for row, n in enumerate(lengths)]


def test_a_failing_batch_fails_every_row_and_leaves_no_thread_waiting():
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="no batch today"):
        run_threads([3, 3], fail_at=1)
    assert threading.active_count() == before
