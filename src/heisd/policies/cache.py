"""Keys and values of one sequence, preallocated, with room for draft rows that may be kept or forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heisd.errors import BadInput


@dataclass(slots=True)
class KVCache:
    """Committed positions, and behind them the rows of the tree that was scored last.

    A forward writes its tree's rows at ``length``; :meth:`keep` moves the accepted path to the front of them and
    commits it. Rows that are not kept are simply overwritten by the next forward.
    """

    data: Tensor  # (layers, 2, heads, capacity, head_dim); keys, then values
    length: int = 0  # committed positions
    next_token: int = -1  # greedy token behind the last committed position
    margin: float = float("nan")  # its logit minus the runner-up's
    pending_parents: Sequence[int] = ()  # the tree scored last
    pending_next: Sequence[int] = ()  # greedy token behind each of its nodes
    pending_margins: Sequence[float] = ()
    states: Tensor | None = None  # (capacity, d) hidden state of every position, if the policy keeps them

    @property
    def capacity(self) -> int:
        """Positions there is room for."""
        return int(self.data.shape[3])

    def room_for(self, n_rows: int) -> None:
        """Raise BadInput unless ``n_rows`` more rows fit."""
        if self.length + n_rows > self.capacity:
            raise BadInput(
                f"{self.length} cached positions and {n_rows} rows exceed the cache's {self.capacity}; "
                "propose smaller trees or load the policy with a larger max_tree_nodes"
            )

    def keep(self, path: Sequence[int]) -> None:
        """Commit exactly the nodes of ``path`` (from a root down, indices of the tree scored last).

        Raises BadInput when ``path`` isn't a path of that tree; the cache is then unchanged.
        """
        if not path:
            self._forget()
            return
        expected = [-1, *path[:-1]]
        if any(not 0 <= node < len(self.pending_parents) for node in path) or any(
            self.pending_parents[node] != parent for node, parent in zip(path, expected, strict=True)
        ):
            raise BadInput(f"{list(path)} is no path from a root of the tree {list(self.pending_parents)}")
        if list(path) != list(range(len(path))):
            rows = torch.tensor(path, device=self.data.device) + self.length
            kept = slice(self.length, self.length + len(path))
            self.data[:, :, :, kept] = self.data.index_select(3, rows)
            if self.states is not None:
                self.states[kept] = self.states.index_select(0, rows)
        self.next_token, self.margin = int(self.pending_next[path[-1]]), float(self.pending_margins[path[-1]])
        self.length += len(path)
        self._forget()

    def known_states(self) -> Tensor | None:
        """(n, d) hidden states of the committed positions; None if they are not kept."""
        return None if self.states is None else self.states[: self.length]

    def _forget(self) -> None:
        self.pending_parents, self.pending_next, self.pending_margins = (), (), ()
