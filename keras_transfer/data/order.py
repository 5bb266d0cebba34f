"""In which order samples come: a pure function of seed and epoch."""

import numpy as np


def epoch_rows(samples: int, views: int, seed: int, shuffle: bool, epoch: int) -> np.ndarray:
    """Return the rows of an epoch, in their order, of a source with `views` versions of each sample.

    Args:
        samples: how many there are; version v of sample i is row i + v * samples.
        views: how many versions there are; one of each sample is drawn.
        seed: decides with the epoch what is drawn.
        shuffle: whether the samples come in an order that is drawn, too.
        epoch: the number of the epoch, from 0.

    Returns:
        Integers of shape (samples,), not to be written to.
    """
    # The key tells these random numbers from those that augment a sample.
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(0,)))
    rows = rng.permutation(samples) if shuffle else np.arange(samples)
    if views > 1:
        rows = rows + samples * rng.integers(views, size=samples)[rows]
    rows.flags.writeable = False
    return rows
