"""What the workers share: each trains in turns, and answers with the seconds of each turn.

A worker reads a number of steps per line from its input and writes the seconds that they took.
"""

import sys
import time
from collections.abc import Callable, Iterator

answers, sys.stdout = sys.stdout, sys.stderr  # nothing else is printed between the answers


def turns(finish: Callable[[], object] = lambda: None) -> Iterator[int]:
    """Yields the steps of each turn; ``finish`` waits for what still computes after them."""
    while line := sys.stdin.readline():
        start = time.perf_counter()
        yield int(line)
        finish()
        print(time.perf_counter() - start, file=answers, flush=True)


def steps(finish: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Yields once for each step."""
    for count in turns(finish):
        for _ in range(count):
            yield
