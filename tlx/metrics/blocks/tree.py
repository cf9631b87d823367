"""A fixed binary tree in which the states of blocks are joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

State = TypeVar("State")


class JoinTree(Generic[State]):
    """Join the states of blocks 0, 1, … in pairs of neighbours, then pairs of pairs, and so on.

    Which states are joined depends on the number of blocks alone: the result has the same bits in
    whatever order they come. At most log₂(blocks) + 1 states are kept where they come in order.
    """

    def __init__(self, blocks: int, join: Callable[[State, State], State]):
        self._join, self._waiting = join, dict[tuple[int, int], State]()
        self._widths = [blocks]
        while self._widths[-1] > 1:
            self._widths.append(-(-self._widths[-1] // 2))

    def add(self, block: int, state: State) -> None:
        """Add the state of a block, and join what is now complete."""
        level, place = 0, block
        while level < len(self._widths) - 1:
            beside = place ^ 1
            if beside < self._widths[level]:
                if (level, beside) not in self._waiting:
                    break
                other = self._waiting.pop((level, beside))
                state = self._join(other, state) if beside < place else self._join(state, other)
            level, place = level + 1, place // 2
        self._waiting[level, place] = state

    @property
    def result(self) -> State:
        """Return the state of all blocks, once all have been added."""
        return self._waiting[len(self._widths) - 1, 0]
