"""How many tokens a frame takes: fewer where the picture is as it was. Training and streaming share
this rule."""
import numpy as np

BLOCK = 8                       # pixels a side: what a small object that moves fills


class Compressor:
    """The grid side of each frame of a stream: `coarse` for one like the last kept at `grid`.

    Alike: no block of 8 x 8 pixels differs by more than `threshold` levels (of 255) in the mean. So
    a small object that moves counts, and noise that is spread over the picture does not."""

    def __init__(self, grid, coarse, threshold=3.0):
        self.grid, self.coarse, self.threshold, self.kept = grid, coarse, threshold, None

    def __call__(self, frame):                              # uint8 (S, S, 3), the model's size
        if self.kept is not None:
            n = frame.shape[0] // BLOCK
            change = np.abs(frame.astype(np.int16) - self.kept)[:n * BLOCK, :n * BLOCK]
            blocks = change.reshape(n, BLOCK, n, BLOCK, 3)
            if blocks.mean((1, 3, 4)).max() <= self.threshold:          # the largest of (n, n)
                return self.coarse
        self.kept = frame                       # not each frame: a slow change would be lost
        return self.grid
