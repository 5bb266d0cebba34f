"""What grows with the number of images: rows are read once, and memory is bounded."""

import gc
import os
import tracemalloc
import weakref

import keras
import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer.data import looking
from keras_transfer.features.cache import cache
from keras_transfer.features.cache.shards import write_shard
from keras_transfer.features.cache.stored import Features
from keras_transfer.features.logme import log_maximum_evidence
from keras_transfer.features.probe.vectors import Vectors

COLUMNS, FEW, MANY = 192, 1536, 4608


def stored(folder, samples):
    """Return drawn features of two classes, in files of 512 rows each, and their classes."""
    rng, y = np.random.default_rng(0), np.arange(samples) % 2
    files = {}
    for start in range(0, samples, 512):
        stop = min(start + 512, samples)
        rows = (rng.standard_normal((stop - start, COLUMNS)) + y[start:stop, None]).astype("float32")
        files[start, stop] = write_shard(folder, start, rows)
    return Features(files, (COLUMNS,), np.dtype("float32"), y, 1, "drawn"), y


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Return for a few samples and for many their features and their classes."""
    return [stored(tmp_path_factory.mktemp("features"), samples) for samples in (FEW, MANY)]


def least_peak(action):
    """Return the lower peak of two runs: threads that earlier tests gave up may allocate in one."""
    return min(peak(action) for _ in range(2))


def peak(action):
    """Return the most bytes that an action has at a time."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bytes_a_sample(action, drawn):
    """Return by how much the memory of an action on features and classes grows with each sample."""
    few, many = (peak(lambda given=given: action(Vectors(given[0]), given[1])) for given in drawn)
    return (many - few) / (MANY - FEW)


def reads(action, given, monkeypatch):
    """Return how often an action on features and classes reads each sample."""
    counts, gather = np.zeros(len(given[0]), int), Features.gather

    def counted(self, indices):
        np.add.at(counts, indices, 1)
        return gather(self, indices)

    monkeypatch.setattr(Features, "gather", counted)
    action(Vectors(given[0]), given[1])
    return counts.tolist()


def test_logme_reads_once_and_has_no_rows_in_memory(drawn, monkeypatch):
    assert bytes_a_sample(log_maximum_evidence, drawn) < 64  # two of eight bytes for a label
    assert reads(log_maximum_evidence, drawn[0], monkeypatch) == [1] * FEW


def test_logme_of_rows_is_that_of_sums(drawn):
    """Features that are always zero say nothing; with them there are more features than samples."""
    features, y = drawn[0]
    rows = Vectors(features)[:FEW].astype("float64") * np.geomspace(1e-3, 10.0, COLUMNS)
    wide = np.pad(rows, ((0, 0), (0, FEW)))
    assert log_maximum_evidence(wide, y) == pytest.approx(log_maximum_evidence(rows, y), rel=1e-8)


def ranked(model, data, **options):
    return kt.rank_backbones([model], data, **options)


@pytest.mark.parametrize("act", [kt.advise, ranked])
def test_advice_and_ranking_have_no_features_in_memory(act, monkeypatch):
    monkeypatch.setattr(
        cache, "_SHARD_BYTES", 2**16
    )  # of a file, which is in memory until it is written
    image = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(8, 2, 2, activation="relu")(image)
    x = keras.layers.Conv2D(256, 1, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(2, "softmax")(x))
    y = np.arange(MANY) % 2
    images = np.random.default_rng(0).integers(0, 256, (MANY, 4, 4, 3), "uint8")
    act(model, (images[:FEW], y[:FEW]), verbose=0)  # imports are no growth
    found = [least_peak(lambda n=n: act(model, (images[:n], y[:n]), verbose=0)) for n in (FEW, MANY)]
    assert (found[1] - found[0]) / (MANY - FEW) < 200  # a fifth of its 256 numbers


class TestLinearHead:
    @pytest.fixture(autouse=True)
    def _extra(self):
        pytest.importorskip("sklearn")

    def fitted(self, x, y):
        from keras_transfer.features.probe.linear_fit import fit

        return next(fit(x, y, "logistic", [1e-3]))

    def test_is_fitted_to_one_matrix(self, drawn, monkeypatch):
        assert bytes_a_sample(self.fitted, drawn) < 1.2 * 8 * COLUMNS
        assert reads(self.fitted, drawn[0], monkeypatch) == [1] * FEW

    def test_is_the_same_on_files_as_on_arrays(self, drawn):
        features, y = drawn[0]
        on_files, on_array = (self.fitted(x, y) for x in (Vectors(features), Vectors(features)[:FEW]))
        np.testing.assert_array_equal(on_files.kernel, on_array.kernel)
        np.testing.assert_array_equal(
            on_files.logits(Vectors(features)), on_array.logits(Vectors(features)[:FEW])
        )

    def test_folds_are_no_copies(self, drawn, monkeypatch):
        from keras_transfer.features.probe import linear_fit
        from keras_transfer.features.probe.linear_fit import choose, fold_data
        from keras_transfer.features.probe.linear_head import cross_validated

        def chosen(x, y):
            choose(fold_data(x, y, 3, 0), "logistic", lambda: None)

        def scored(x, y):
            cross_validated(x, y, "logistic", 1e-3, 3, 0, 0)

        monkeypatch.setattr(linear_fit, "_LARGE", 0)
        # Of three folds two are fitted to at a time.
        assert bytes_a_sample(chosen, drawn) < 1.2 * 2 / 3 * 8 * COLUMNS
        assert bytes_a_sample(scored, drawn) < 1.2 * 2 / 3 * 8 * COLUMNS

    def test_a_matrix_in_a_circle_is_freed(self, monkeypatch):
        """Some releases of SciPy leave one behind; here the solver does."""
        from keras_transfer.features.probe import linear_fit

        class Circle:
            coef_, intercept_ = np.zeros((1, 3)), np.zeros(1)

            def set_params(self, C):
                return self

            def fit(self, x, y, sample_weight):
                self.itself, alive[:] = self, [weakref.ref(self)]

        alive = []
        monkeypatch.setattr(linear_fit, "_estimator", lambda method, tolerance: Circle())
        monkeypatch.setattr(linear_fit, "_LARGE", 8 * 4 * 3)
        gc.disable()
        try:
            list(linear_fit.fit(np.zeros((4, 3)), np.arange(4) % 2, "logistic", [1.0]))
            assert alive[0]() is None
            list(linear_fit.fit(np.zeros((3, 3)), np.arange(3) % 2, "logistic", [1.0]))
            assert alive[0]() is not None  # a small one can wait
        finally:
            gc.enable()


def folder_of(path, images):
    """Return a folder of two classes with so many links to one image."""
    image = pytest.importorskip("PIL.Image")
    for index in range(images):
        link = path / f"class {index % 2}" / f"{index}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        if index:
            link.hardlink_to(path / "class 0" / "0.png")
        else:
            image.fromarray(np.arange(192, dtype="uint8").reshape(8, 8, 3)).save(link)
            # In 2100: of a file that was just written no image is kept. Those have a bound of their own,
            # and here they would be as many as the machine is slow.
            os.utime(link, (2**32, 2**32))
    return path


def test_a_folder_is_checked_and_digested_in_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(looking, "_AT_A_TIME", 64)
    few, many = (folder_of(tmp_path / str(count), count) for count in (200, 600))
    kt.data.from_directory(few, image_size=8, verbose=0).fingerprint()  # imports are no growth

    def look(folder):
        return kt.data.from_directory(folder, image_size=8, verbose=0)

    found = [least_peak(lambda folder=folder: look(folder)) for folder in (few, many)]
    assert (found[1] - found[0]) / 400 < 1000
    loaders = look(few), look(many)
    found = [peak(loader.fingerprint) for loader in loaders]
    assert (found[1] - found[0]) / 400 < 100
