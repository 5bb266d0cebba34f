"""How long a linear head takes for many features of several depths, on random numbers with classes.

"ridge" is the choice of depths and of C by ten folds, and the final fit; "logistic regression" the
choice of depths, that of C by five folds, and the final fit. What no one waits for is left out: the
features are in memory. By default 3,000 images, 6,400 features of five depths, 100 classes.

    python benchmarks/head_solvers.py
    python benchmarks/head_solvers.py --images 1000 --width 1280 --depths 1 --classes 10
"""

import argparse
import time

import numpy as np
import rich.console
import rich.table

from keras_transfer.features.probe import linear_fit
from keras_transfer.features.probe.head_choice import Head, choose_head, chosen_depths, fit_head


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--width", type=int, default=1280, help="features of a depth")
    parser.add_argument("--depths", type=int, default=5)
    parser.add_argument("--classes", type=int, default=100)
    return parser.parse_args()


def features(given):
    """Return features as a network gives them, 0 or more, and classes that they tell."""
    rng = np.random.default_rng(0)
    y = np.arange(given.images) % given.classes
    centres = rng.normal(0, 0.35, (given.classes, given.width * given.depths))
    noise = rng.normal(0, 1, (given.images, given.width * given.depths))
    return np.maximum(centres[y] + noise, 0).astype("float32"), y


def main():
    """Measure and print a table."""
    given = arguments()
    x, y = features(given)
    widths = [given.width] * given.depths
    table = rich.table.Table("head", "depths", "depths and C, s", "final fit, s", "accuracy by folds")

    def told(name, head, chosen, fitted):
        accuracy = f"{head.choice.accuracy:.3f}"
        table.add_row(name, str(head.depths), f"{chosen:.1f}", f"{fitted:.1f}", accuracy)

    start = time.perf_counter()
    head = choose_head(x, y, widths, list(linear_fit.fold_indices(y, 10, 0)))
    chosen = time.perf_counter()
    fit_head(x, y, head)
    told("ridge", head, chosen - start, time.perf_counter() - chosen)

    start = time.perf_counter()
    depths = chosen_depths(x, y, widths)
    width = sum(widths[-depths:])
    splits = linear_fit.fold_data(x[:, -width:], y, 5, 0)
    head = Head(depths, width, linear_fit.choose(splits, "logistic", lambda: None))
    chosen = time.perf_counter()
    fit_head(x, y, head)
    told("logistic regression", head, chosen - start, time.perf_counter() - chosen)
    rich.console.Console(width=100).print(table)


if __name__ == "__main__":
    main()
