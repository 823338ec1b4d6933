"""Work side by side: in order, one thread each, and over at the first error."""

import os
import threading
from collections.abc import Iterator

import pytest
import torch

from hortus.learning.passes import workers
from hortus.learning.passes.workers import passes_at_once, side_by_side


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    assert side_by_side(range(50), lambda n: n * n, count) == [n * n for n in range(50)]
    assert side_by_side([], lambda n: n, count) == []


@pytest.mark.parametrize(
    ("threads", "sites", "cores", "gpu", "at_once"),
    [
        (4, 1, 8, False, 4),  # a site keeps to OMP_NUM_THREADS
        (1, 1, 8, False, 1),
        (1, 3, 2, False, 2),  # virtual sites share what there is
        (1, 3, 8, False, 3),
        (2, 3, 8, False, 6),
        (64, 1, 2, False, 2),  # a container of a large machine
        (8, 20, 16, True, 1),
    ],
)
def test_passes_are_as_many_as_sites_threads_and_processors_allow(
    threads: int, sites: int, cores: int, gpu: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_THREADS", threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert passes_at_once(sites) == at_once


def test_each_item_is_worked_on_by_one_thread_alone_and_by_several_at_once() -> None:
    meet = threading.Barrier(3, timeout=20)

    def work(_: int) -> int:
        meet.wait()
        return torch.get_num_threads()

    assert side_by_side(range(3), work, 3) == [1, 1, 1]


def test_items_are_taken_when_a_thread_is_free_for_them() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(6):
            taken.append(number)
            yield number

    ahead = side_by_side(items(), lambda number: len(taken) - number, 1)
    assert ahead == [1] * 6


@pytest.mark.parametrize("where", ["work", "items"])
def test_the_first_error_ends_it(where: str) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        if where == "items":
            raise ValueError("no more")
        yield from range(3, 1000)

    done: list[int] = []

    def work(number: int) -> None:
        done.append(number)
        if where == "work" and number == 3:
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        side_by_side(items(), work, 2)
    assert len(done) < 10
