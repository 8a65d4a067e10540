"""What lies in each slot of a KV cache: of which second, of what kind, of which question."""
from itertools import groupby
from typing import NamedTuple

import numpy as np

TEXT, FRAME, PINNED = range(3)          # slots that leave with their turn, may leave before, stay


class Piece(NamedTuple):
    """Tokens that go into the cache together, and what their slots are."""
    ids: list
    second: int
    kind: int = TEXT
    owner: int = 0                      # number of the question that they spell


class Slots:
    """second, kind and owner of the slots of `cache`, a streamo.KVCache of one row: each (n,)."""

    def __init__(self, cache):
        self.cache, self.rows = cache, np.zeros((3, cache.capacity), int)

    second, kind, owner = (property(lambda self, row=row: self.rows[row, :self.cache.length])
                           for row in range(3))

    def note(self, pieces):
        """What will lie in the next slots, once the model has read these pieces -> their ids."""
        ids, at = [], self.cache.length
        for piece in pieces:
            new = slice(at + len(ids), at + len(ids) + len(piece.ids))
            self.rows[:, new] = [[piece.second], [piece.kind], [piece.owner]]
            ids += piece.ids
        return ids

    def drop(self, gone):
        """These slots leave, (n,) bool; the others move together. ValueError for another mask."""
        gone = np.asarray(gone)
        if gone.dtype != bool or gone.shape != (self.cache.length,):
            raise ValueError(f"slots to drop: {gone.dtype} {gone.shape}; a policy gives bool, one "
                             f"for each of {self.cache.length} slots")
        kept = self.rows[:, :self.cache.length][:, ~gone]
        starts, ends, at = [], [], 0
        for leaves, slots in groupby(gone):             # neighbours that leave are one span
            length = len(list(slots))
            if leaves:
                starts.append(at)
                ends.append(at + length)
            at += length
        if starts:
            self.cache.drop(starts, ends)
            self.rows[:, :self.cache.length] = kept

    def turns(self, kinds=(TEXT, FRAME)):
        """The seconds of the slots of these kinds."""
        return set(self.second[np.isin(self.kind, kinds)].tolist())

    def close(self, questions, still_open):
        """The text of closed questions leaves; so do the head and the end of their turn, where no
        question that is still open needs them and the turn itself has left."""
        gone = np.isin(self.owner, [question.number for question in questions])
        for question in questions:
            mine = self.second == question.asked
            around = mine & (self.kind == PINNED) & (self.owner == 0)
            if any(other.asked == question.asked for other in still_open):
                continue
            if question.asked in self.turns():
                self.kind[around] = TEXT                # they leave with it
            else:
                gone |= around
        self.drop(gone)
