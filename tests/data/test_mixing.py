import numpy as np
import pytest

from keras_transfer.data import Compose, Loader, cutmix, mixup, mixup_or_cutmix


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (6, 10, 14, 3), "uint8")


def rows(count):
    """One-hot rows, each image of a class of its own: a mixed row tells what the image is made of."""
    return np.eye(count, dtype="float32")


def parts(labels):
    """Return how much of each mixed image is its own, and check that the rest is its neighbour's."""
    own = labels.diagonal()
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.roll(labels, 1, axis=1).diagonal(), 1 - own, atol=1e-6)
    return own


MIXERS = [mixup, cutmix, mixup_or_cutmix]


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32"])
def test_mixup_is_the_weighted_mean_of_images_and_labels(dtype, images, rng):
    images = images.astype(dtype)
    mixed, labels = mixup(images, rows(6), rng, alpha=1.0)
    own = parts(labels).astype("float64")[:, None, None, None]
    wanted = own * images + (1 - own) * np.roll(images, 1, axis=0)
    assert mixed.dtype == dtype
    tolerance = {"float32": 1e-3, "float16": 0.2}.get(dtype, 0.51)
    np.testing.assert_allclose(mixed.astype("float64"), wanted, atol=tolerance)
    assert len(set(own.flat)) == 6  # each image has a blend of its own


def test_mixup_rounds_to_the_nearest(rng):
    images = np.stack([np.full((1, 1, 1), value, "uint8") for value in (0, 255) * 500])
    mixed, labels = mixup(images, rows(1000), rng, alpha=1.0)
    exact = 255 * np.where(images[:, 0, 0, 0] == 255, labels.diagonal(), 1 - labels.diagonal())
    assert np.abs(mixed[:, 0, 0, 0] - exact).max() < 0.501
    assert abs((mixed[:, 0, 0, 0] - exact).mean()) < 0.03


@pytest.mark.parametrize(("alpha", "between"), [(0.2, (0.15, 0.3)), (50.0, (1.0, 1.0))])
def test_alpha_of_mixup_tells_how_evenly_it_blends(alpha, between, rng):
    one_pixel, classes = np.zeros((4000, 1, 1, 1), "uint8"), rows(2)[np.arange(4000) % 2]
    own = mixup(one_pixel, classes, rng, alpha=alpha)[1][classes == 1]
    assert abs(own.mean() - 0.5) < 0.05
    low, high = between
    assert low <= ((own > 0.2) & (own < 0.8)).mean() <= high


def test_cutmix_pastes_a_rectangle_and_its_label_is_the_area(rng):
    numbers = np.arange(1, 9, dtype="uint8")
    images = np.broadcast_to(numbers[:, None, None, None], (8, 20, 30, 3)).copy()
    shapes = set()
    for _ in range(50):
        mixed, labels = cutmix(images, rows(8), rng)
        for number, before, image, own in zip(
            numbers, np.roll(numbers, 1), mixed, parts(labels), strict=True
        ):
            pasted = image[..., 0] == before
            assert ((image[..., 0] == number) | pasted).all()
            assert (image == image[..., :1]).all()
            assert own == pytest.approx(1 - pasted.mean(), abs=1e-6)
            down, across = pasted.any(axis=1), pasted.any(axis=0)
            assert pasted.sum() == down.sum() * across.sum()  # nothing but a rectangle
            assert (np.diff(np.flatnonzero(down)) == 1).all()
            assert (np.diff(np.flatnonzero(across)) == 1).all()
            shapes.add((down.sum(), across.sum()))
    assert len(shapes) > 100


def test_cutmix_pastes_from_the_same_place(images, rng):
    mixed, _ = cutmix(images, rows(6), rng)
    before = np.roll(images, 1, axis=0)
    assert ((mixed == images) | (mixed == before)).all()
    assert 0 < (mixed != images).mean() < 1


def test_cutmix_pastes_anywhere(rng):
    images = np.zeros((2000, 9, 9, 1), "uint8")
    images[::2] = 1
    pasted = (cutmix(images, rows(2000), rng)[0] != images)[..., 0].mean(axis=0)
    np.testing.assert_allclose(pasted, pasted[::-1, ::-1], atol=0.06)
    # The centre of what is pasted is anywhere: the corners see less of it, but a good deal.
    assert 0.1 < pasted[0, 0] < pasted[4, 4] < 0.7


@pytest.mark.parametrize("mix", MIXERS)
@pytest.mark.parametrize("shape", [(6, 10, 14, 3), (5, 1, 1, 1), (3, 1, 40, 2)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_shapes_and_types_stay_and_so_do_the_arguments(mix, shape, dtype, rng):
    images, labels = (255 * rng.random(shape)).astype(dtype), rows(shape[0])
    before = images.copy()
    mixed, mixed_labels = mix(images, labels, rng)
    assert (mixed.shape, mixed.dtype) == (shape, dtype)
    assert (mixed_labels.shape, mixed_labels.dtype) == (labels.shape, np.float32)
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(labels, rows(shape[0]))


@pytest.mark.parametrize("mix", MIXERS)
def test_a_batch_of_one_stays(mix, images):
    for seed in range(20):
        mixed, labels = mix(images[:1], rows(3)[1:2], np.random.default_rng(seed))
        np.testing.assert_array_equal(mixed, images[:1])
        np.testing.assert_allclose(labels, rows(3)[1:2], atol=1e-6)


@pytest.mark.parametrize("mix", MIXERS)
def test_rows_of_integers_are_mixed_as_numbers(mix, images, rng):
    _, labels = mix(images, rows(6).astype(int), rng)
    parts(labels)
    assert ((labels > 0) & (labels < 1)).any()


@pytest.mark.parametrize("mix", MIXERS)
@pytest.mark.parametrize("labels", [np.arange(6), rows(5), np.zeros((6, 1, 3))])
def test_labels_must_be_rows(mix, labels, images, rng):
    with pytest.raises(ValueError, match=r"labels must be 6 one-hot rows.*Received: an array of"):
        mix(images, labels, rng)


def test_either_of_both_half_of_the_time():
    images = np.array([0, 255], "uint8")[:, None, None, None] * np.ones((1, 8, 8, 1), "uint8")
    blended = sum(
        not np.isin(mixup_or_cutmix(images, rows(2), np.random.default_rng(seed))[0], (0, 255)).all()
        for seed in range(400)
    )
    assert 120 < blended < 220  # a blend of mixup can be too weak to be seen


# In a loader


MIXED = Compose(mix=mixup_or_cutmix)


def labelled(count=10, size=8, classes=3):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, size, size, 3), "uint8"), np.arange(count) % classes


def test_a_loader_mixes_each_batch_and_makes_rows_of_its_labels():
    loader = Loader(labelled(), 4, num_classes=3, augmentation=MIXED)
    plain = loader.replace(augmentation=None)
    sizes, mixed = [], 0
    for index in range(3):
        images, labels = loader.batch(0, index)
        originals, integers = plain.batch(0, index)
        assert (images.shape, images.dtype) == (originals.shape, originals.dtype)
        assert (labels.shape, labels.dtype) == ((len(integers), 3), np.float32)
        np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=1e-6)
        among = rows(3)[integers] + rows(3)[np.roll(integers, 1)]
        assert (labels[among == 0] == 0).all()
        mixed += (images != originals).any(axis=(1, 2, 3)).sum()
        sizes.append(len(labels))
    assert sizes == [4, 4, 2]
    assert mixed > 5


def test_a_last_batch_of_one_sample_is_not_mixed():
    loader = Loader(labelled(9), 4, num_classes=3, augmentation=MIXED)
    images, labels = loader.batch(5, 2)
    original, integers = loader.replace(augmentation=None).batch(5, 2)
    np.testing.assert_array_equal(images, original)
    np.testing.assert_allclose(labels, rows(3)[integers], atol=1e-6)


def test_how_a_batch_is_mixed_is_of_the_seed_the_epoch_and_its_samples():
    loader = Loader(labelled(), 4, num_classes=3, augmentation=MIXED, seed=3)
    for epoch, index in ((0, 0), (2, 1)):
        for found, again in zip(
            loader.batch(epoch, index), loader.replace().batch(epoch, index), strict=True
        ):
            np.testing.assert_array_equal(found, again)
    fixed = loader.replace(shuffle=False)  # the same samples in each epoch
    batches = [fixed.batch(epoch, 0)[0] for epoch in range(8)]
    batches += [fixed.replace(seed=seed).batch(0, 0)[0] for seed in range(4, 8)]
    assert len({images.tobytes() for images in batches}) == 12


def test_rows_may_be_given():
    images, integers = labelled()
    given = rows(3)[integers].astype("float64")
    for source in ((images, given), list(zip(images, given, strict=True))):
        loader = Loader(source, 4, num_classes=3, augmentation=MIXED)
        wanted = Loader((images, integers), 4, num_classes=3, augmentation=MIXED).batch(1, 1)
        for found, expected in zip(loader.batch(1, 1), wanted, strict=True):
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype
    assert Loader((images, given), 4, augmentation=MIXED).batch(0, 0)[1].shape == (4, 3)


def test_how_many_classes_there_are_must_be_known():
    images, integers = labelled()
    message = r"num_classes or class_names must tell how many classes .*Received: one_hot=False, augment"
    for source in ((images, integers), list(zip(images, rows(3)[integers], strict=True))):
        with pytest.raises(ValueError, match=message):
            Loader(source, augmentation=MIXED)
    with pytest.raises(ValueError, match=r"Received: one_hot=True, augmentation=None"):
        Loader((images, integers), one_hot=True)
    assert Loader((images, integers), 4, class_names="abc", augmentation=MIXED)[0][1].shape == (4, 3)


def test_labels_are_rows_only_while_images_are_mixed():
    loader = Loader(labelled(), 4, num_classes=3)
    mixing = loader.replace(augmentation=MIXED)
    assert (loader.one_hot, mixing.one_hot, mixing.replace(augmentation=None).one_hot) == (
        False,
        True,
        False,
    )
    assert mixing.replace(augmentation=None).batch(0, 0)[1].dtype.kind == "i"
    asked = loader.replace(one_hot=True)
    for each in (
        asked,
        asked.replace(augmentation=MIXED).replace(augmentation=None),
        asked.replace(seed=1),
    ):
        labels, integers = each.batch(0, 0)[1], each.replace(one_hot=False).batch(0, 0)[1]
        np.testing.assert_array_equal(labels, rows(3)[integers])
        assert labels.dtype == "float32"


@pytest.mark.parametrize("gathers", [True, False])
def test_rows_of_samples_one_by_one_and_of_whole_batches(gathers):
    images, integers = labelled()
    source = (images, integers) if gathers else list(zip(images, integers, strict=True))
    loader = Loader(source, 4, num_classes=5, one_hot=True)
    assert loader._gathers == gathers
    for _, labels in (loader.batch(0, 0), loader.samples(2, 5)):
        assert (labels.shape[1], labels.dtype) == (5, np.float32)
    np.testing.assert_array_equal(loader.samples(2, 5)[1], rows(5)[integers[2:5]])
