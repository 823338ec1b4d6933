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

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = 1 if torch.cuda.is_available() else torch.get_num_threads()
"""Passes at once: what PyTorch would use, or OMP_NUM_THREADS; a GPU takes one at a time."""


def side_by_side(
    items: Iterable[Item], work: Callable[[Item], Result], workers: int = WORKERS
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
