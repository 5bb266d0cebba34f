#!/usr/bin/env bash
# One would expect that a class weight of 10 does what ten copies of each sample of that class do, and
# what sample weights of 10 do. In scikit-learn that holds for LogisticRegression, and for LinearSVC with
# two classes. With more classes LinearSVC fits one machine a class, against all others; liblinear gives
# the weight of a class to its own samples alone, and those of the rest weigh 1 in it, whatever their
# class weights. So `class_weight="balanced"` balances nothing in the machines of the other classes.
# It matters where a linear head is fitted to few images of uneven classes: take `sample_weight`.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.4.6

cat > "$folder/weigh.py" <<'PYTHON'
import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

print("scikit-learn", sklearn.__version__, "numpy", np.__version__)
rng = np.random.default_rng(0)
x = rng.standard_normal((60, 2)) + np.repeat([[0, 0], [1, 0], [0, 1]], 20, axis=0)


def distances(make, classes):
    """Return by how much weights of classes and of samples differ from copies of samples."""
    y = np.minimum(np.repeat([0, 1, 2], 20), classes - 1)
    last = y == classes - 1
    weights = {k: 10.0 if k == classes - 1 else 1.0 for k in range(classes)}
    copies = np.concatenate([x, *[x[last]] * 9]), np.concatenate([y, *[y[last]] * 9])
    copied = make().fit(*copies).coef_
    by_class = make(class_weight=weights).fit(x, y).coef_
    by_sample = make().fit(x, y, sample_weight=np.where(last, 10.0, 1.0)).coef_
    return abs(by_class - copied).max(axis=1), abs(by_sample - copied).max(axis=1)


def svm(**options):
    return LinearSVC(tol=1e-8, max_iter=100_000, random_state=0, **options)


def logistic(**options):
    return LogisticRegression(tol=1e-8, max_iter=10_000, **options)


for make in (logistic, svm):
    for classes in (2, 3):
        by_class, by_sample = distances(make, classes)
        print(make.__name__, classes, "classes:", by_class.round(3), by_sample.round(3))
        assert by_sample.max() < 1e-3
        if (make, classes) == (svm, 3):
            assert by_class[2] < 1e-3  # the machine of the weighted class
            assert by_class[:2].min() > 0.05  # those in which it is among the rest
        else:
            assert by_class.max() < 1e-3
PYTHON
"$folder/venv/bin/python" "$folder/weigh.py"
