"""What samples, batches and crops are."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Sample: TypeAlias = tuple[np.ndarray, np.ndarray]
Batch: TypeAlias = tuple[np.ndarray, np.ndarray]
Size: TypeAlias = tuple[int, int]
Box: TypeAlias = tuple[int, int, int, int]  # top, left, height, width, in pixels
Crop: TypeAlias = Callable[[int, int], Box]  # of (height, width): the part of an image that is taken
