"""What each step of a training on the toy world reads: samples drawn on demand by a curriculum."""
import random

from data import packed

POOL = 8                                        # steps whose samples are sorted by length together


class ToySteps:
    """steps[n]: the micro-batches (lists of keys) of step n of `steps`, one for each of the `world`
    ranks. curriculum: as toy.datasets.CURRICULUM. A function of its arguments and n alone."""

    def __init__(self, dataset, curriculum, steps, seed, world, tasks="all"):
        self.dataset, self.curriculum, self.steps = dataset, curriculum, steps
        self.seed, self.world, self.tasks = seed, world, tasks
        self.number = None                                      # of the pool that is drawn

    def __getitem__(self, step):
        if step // POOL != self.number:
            self.number = step // POOL
            self.pool = self.draw(self.number)
        return self.pool[step % POOL]

    def draw(self, number):
        """The micro-batches of POOL steps, in a random order. Like lengths lie together in one, so
        that little of it is padding."""
        rng, samples, total = random.Random(f"{self.seed}/pool/{number}"), [], 0
        tokens, kinds = next(rest for end, *rest in self.curriculum
                             if number * POOL / self.steps < end)
        while total < (POOL * self.world + 1.5) * tokens:
            key = rng.choices(list(kinds), list(kinds.values()))[0], rng.randrange(10**9)
            if self.dataset.wanted(key, self.tasks):
                length = self.dataset.estimate(key)
                samples.append((length, key))
                total += min(length, tokens)            # a longer one is a micro-batch of its own
        groups = packed(samples, tokens)
        rng.shuffle(groups)
        return [groups[k * self.world:][:self.world] for k in range(POOL)]
