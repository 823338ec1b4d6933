"""Passes side by side, each on one thread.

PyTorch splits a large operation over its threads, and where it is split decides the last bits. A pass that
runs on one thread has the bits of its shape, on any machine with the same kernels; the processor's
other cores take other passes meanwhile.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from hortus.runtime.surroundings import processors

Item = TypeVar("Item")
Result = TypeVar("Result")

# What PyTorch would use for one operation, or OMP_NUM_THREADS; in a worker's thread it would say 1.
_THREADS = torch.get_num_threads()


def passes_at_once(sites: int = 1) -> int:
    """Returns how many passes run at once in a process.

    A site takes as many threads as OMP_NUM_THREADS allows. A process that stands for several sites takes
    as many for each, as they would on machines of their own, while there are processors. A GPU takes one pass at a
    time.

    Args:
        sites: That compute in this process.
    """
    return 1 if torch.cuda.is_available() else min(_THREADS * sites, processors())


def side_by_side(
    items: Iterable[Item], work: Callable[[Item], Result], workers: int
) -> list[Result]:
    """Returns what the work makes of each item, in their order.

    Args:
        items: Taken one at a time, when a thread is free for it.
        work: Called from several threads; gradients are recorded there unless it says otherwise.
        workers: Threads.

    Raises:
        Exception: What the work, or taking an item, raised first; no further items are taken.
    """
    numbered, taking, failed = enumerate(items), threading.Lock(), threading.Event()
    results: dict[int, Result] = {}

    def one_after_another() -> None:
        torch.set_num_threads(1)  # of operations that this thread starts
        try:
            while not failed.is_set():
                with taking:
                    number, item = next(numbered, (-1, None))
                if item is None:
                    return
                results[number] = work(item)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(workers) as pool:
        for ended in [pool.submit(one_after_another) for _ in range(workers)]:
            ended.result()
    return [results[number] for number in range(len(results))]
