import sys
from functools import partial

import numpy as np
import pytest

import keras_transfer
from keras_transfer.data import (
    Compose,
    Loader,
    color_jitter,
    mixup,
    rand_augment,
    random_crop,
    random_flip,
    random_resized_crop,
    random_rotation,
    trivial_augment,
)
from keras_transfer.data.images.augmentation import (
    PRESETS,
    augmentation_name,
    mixes,
    resolve_augmentation,
)

needs_opencv = pytest.mark.usefixtures("_opencv")


@pytest.fixture
def _opencv():
    pytest.importorskip("cv2")
    pytest.importorskip("PIL")


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (16, 24, 3), "uint8")


SHAPES = [random_flip, random_crop, random_rotation, partial(random_rotation, degrees=90.0)]
COLOURS = [color_jitter, rand_augment, trivial_augment]


@needs_opencv
@pytest.mark.parametrize("augmentation", [*SHAPES, *COLOURS, *PRESETS.values()])
def test_shape_dtype_and_argument_stay(augmentation, image):
    before = image.copy()
    image.flags.writeable = False
    results = [augmentation(image, np.random.default_rng(seed)) for seed in range(20)]
    assert {(result.shape, result.dtype) for result in results} == {(image.shape, image.dtype)}
    assert len({result.tobytes() for result in results}) > 1
    np.testing.assert_array_equal(image, before)
    for seed in range(20):
        np.testing.assert_array_equal(results[seed], augmentation(image, np.random.default_rng(seed)))


@needs_opencv
@pytest.mark.parametrize("augmentation", [*SHAPES, PRESETS["light"]])
@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_what_changes_no_colours_takes_images_of_any_kind(augmentation, channels, dtype, rng):
    image = rng.integers(0, 256, (9, 14, channels)).astype(dtype)
    results = [augmentation(image, np.random.default_rng(seed)) for seed in range(10)]
    assert {(result.shape, result.dtype) for result in results} == {(image.shape, image.dtype)}
    assert len({result.tobytes() for result in results}) > 1


@needs_opencv
@pytest.mark.parametrize("augmentation", [*SHAPES, *COLOURS])
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 60, 3), (60, 1, 3)])
def test_images_of_a_pixel_or_a_line(augmentation, shape, rng):
    image = rng.integers(0, 256, shape, "uint8")
    for seed in range(30):
        assert augmentation(image, np.random.default_rng(seed)).shape == shape


# The presets


def test_light_flips_and_crops(image, rng):
    padded = np.pad(image, ((2, 2), (3, 3), (0, 0)), mode="reflect")
    # Padding is symmetric: the crops of the mirror image are the mirrored crops of the image.
    crops = [padded[top : top + 16, left : left + 24] for top in range(5) for left in range(7)]
    straight, mirrored = ({crop[:, ::step].tobytes() for crop in crops} for step in (1, -1))
    found = {PRESETS["light"](image, rng).tobytes() for _ in range(300)}
    assert found <= straight | mirrored
    assert len(found & straight) > 20
    assert len(found & mirrored) > 20


def test_what_the_presets_do():
    stages = {
        name: (each.steps, each.crop, each.mix and each.mix.__name__) for name, each in PRESETS.items()
    }
    assert stages == {
        "light": ((random_flip, random_crop), None, None),
        "standard": ((random_flip, random_rotation, color_jitter), random_resized_crop, None),
        "strong": ((random_flip, trivial_augment), random_resized_crop, "mixup_or_cutmix"),
    }


@needs_opencv
def test_standard_is_its_stages_one_after_the_other(image):
    loader = Loader((image[None], [0]), image_size=8, augmentation="standard", seed=5)
    rng = np.random.default_rng([5, 3, 0])  # seed, epoch, sample
    top, left, rows, columns = random_resized_crop(16, 24, rng)
    from keras_transfer.data.images.reading import resize_image

    wanted = resize_image(image, (8, 8), lambda height, width: (top, left, rows, columns))
    for step in (random_flip, random_rotation, color_jitter):
        wanted = step(wanted, rng)
    np.testing.assert_array_equal(loader.batch(3, 0)[0][0], wanted)


@pytest.mark.parametrize("preset", PRESETS)
def test_which_presets_work_without_opencv(preset, monkeypatch):
    monkeypatch.delattr(keras_transfer.data.images, "transforms", raising=False)
    monkeypatch.delitem(sys.modules, "keras_transfer.data.images.transforms", raising=False)
    monkeypatch.setitem(sys.modules, "cv2", None)
    images = np.zeros((4, 8, 8, 3), "uint8"), np.arange(4)
    if preset == "light":
        assert Loader(images, augmentation=preset).batch(0, 0)[0].shape == (4, 8, 8, 3)
        return
    # When it is named, not when the phase that it is for begins hours later.
    for name_it in (
        lambda: Loader(images, num_classes=4, augmentation=preset),
        lambda: keras_transfer.Phase("all", 1, augmentation=preset),
    ):
        with pytest.raises(ImportError, match=r"OpenCV: pip install 'keras-transfer\[data\]'"):
            name_it()


# Stages


def test_steps_are_done_one_after_the_other_with_one_generator(image):
    def add(image, rng):
        return image + np.uint8(rng.integers(1, 100))

    def double(image, rng):
        return image * np.uint8(2)

    rng = np.random.default_rng(0)
    first, second = (np.uint8(rng.integers(1, 100)) for _ in range(2))
    wanted = (image + first) * np.uint8(2) + second
    found = Compose([add, double, add])(image, np.random.default_rng(0))
    np.testing.assert_array_equal(found, wanted)
    assert Compose()(image, rng) is image
    assert Compose(iter([add, double])).steps == (add, double)


def test_a_composed_step_is_a_step(image):
    inner = Compose([random_flip, random_crop])
    found = Compose([inner, random_flip])(image, np.random.default_rng(0))
    wanted = Compose([random_flip, random_crop, random_flip])(image, np.random.default_rng(0))
    np.testing.assert_array_equal(found, wanted)


def test_a_crop_is_of_the_original_image():
    pytest.importorskip("PIL")
    images = np.arange(20 * 30, dtype="uint16").reshape(1, 20, 30, 1)
    seen = []

    def crop(height, width, rng):
        seen.append((height, width, type(rng)))
        return 4, 6, 8, 8

    loader = Loader((images, [0]), image_size=8, augmentation=Compose(crop=crop))
    np.testing.assert_array_equal(loader.batch(0, 0)[0][0], images[0, 4:12, 6:14])
    assert seen == [(20, 30, np.random.Generator)]
    whole = loader.replace(image_size=None).batch(0, 0)[0]  # as large as the image is
    assert whole.shape == images.shape
    assert images[0, 3, 5] < whole.min() < whole.max() < images[0, 12, 14]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"steps": [random_flip, "light"]}, "'light'"),
        ({"steps": [None]}, "None"),
        ({"steps": [0, random_flip]}, "0"),
        ({"crop": (0, 1)}, r"\(0, 1\)"),
        ({"crop": 0}, "0"),
        ({"mix": "mixup"}, "'mixup'"),
    ],
)
def test_stages_must_be_functions(arguments, named):
    with pytest.raises(TypeError, match=f"steps, crop and mix must be functions. Received: {named}$"):
        Compose(**arguments)


@pytest.mark.parametrize("steps", [random_flip, "light", None, 3])
def test_steps_must_be_several(steps):
    with pytest.raises(TypeError, match="steps must be a sequence of functions. Received: steps="):
        Compose(steps)


@pytest.mark.parametrize("stage", [{"crop": random_resized_crop}, {"mix": mixup}])
def test_a_step_that_would_crop_or_mix_is_not_lost_in_silence(stage):
    with pytest.raises(
        ValueError, match=r"steps can't crop or mix; pass that to the outer .* Received: Com"
    ):
        Compose([random_flip, Compose(**stage)])


def test_the_first_of_several_steps_that_would_be_lost_is_named():
    with pytest.raises(ValueError, match=r"Received: Compose\(.*crop=<function random_res"):
        Compose([Compose(crop=random_resized_crop), Compose(mix=mixup)])


# What an argument stands for


def test_what_an_argument_stands_for():
    assert resolve_augmentation(None) is None
    assert resolve_augmentation("light") is PRESETS["light"]
    assert resolve_augmentation(random_flip) is random_flip
    composed = Compose([random_flip])
    assert resolve_augmentation(composed) is composed


@needs_opencv
def test_what_mixes():
    mixing = ["strong", Compose(mix=mixup)]
    others = [
        None,
        "light",
        "standard",
        random_flip,
        Compose([random_flip], crop=random_resized_crop),
        mixup,
    ]
    assert [mixes(each) for each in mixing + others] == [True] * 2 + [False] * 6


def test_what_an_augmentation_is_called():
    named = [None, "light", random_flip, Compose(), partial(random_rotation, degrees=3)]
    assert [augmentation_name(each) for each in named] == [
        None,
        "light",
        "random_flip",
        "Compose",
        "partial",
    ]


def test_unknown_preset():
    message = "augmentation must be .*did you mean light. Received: augmentation='Ligth'"
    with pytest.raises(ValueError, match=message):
        resolve_augmentation("Ligth")
    with pytest.raises(ValueError, match=r"'light', 'standard' or 'strong'.* augmentation='zebra'"):
        Loader((np.zeros((1, 2, 2, 1)), np.zeros(1)), augmentation="zebra")


@pytest.mark.parametrize("augmentation", [3, ["light"]])
def test_neither_name_nor_callable(augmentation):
    with pytest.raises(TypeError, match=r"augmentation must be .* Received: augmentation="):
        resolve_augmentation(augmentation)


# In a loader


def images_of_samples(loader, epoch):
    """Return the images of an epoch in the order of the source."""
    batches = [loader.batch(epoch, index)[0] for index in range(loader.num_batches)]
    return np.concatenate(batches)[np.argsort(loader.order(epoch))]


@needs_opencv
@pytest.mark.parametrize("preset", ["light", "standard", trivial_augment, rand_augment])
def test_an_image_is_of_the_seed_the_epoch_and_the_sample_alone(preset, rng):
    source = rng.integers(0, 256, (9, 20, 30, 3), "uint8"), np.arange(9)
    before = source[0].copy()
    loader = Loader(source, 4, seed=3, augmentation=preset, image_size=16)
    wanted = images_of_samples(loader, 2)
    assert wanted.dtype == np.uint8
    for changes in ({"batch_size": 2}, {"batch_size": 9}, {"shuffle": False}, {"num_threads": 0}):
        np.testing.assert_array_equal(images_of_samples(loader.replace(**changes), 2), wanted)
    some = loader.subset([5])  # a sample of another index
    others = [
        images_of_samples(loader, 3),
        images_of_samples(loader.replace(seed=4), 2),
        some.batch(2, 0)[0],
    ]
    every = np.concatenate([wanted, *others])
    assert len({image.tobytes() for image in every}) > 24  # of 28; some changes are none
    np.testing.assert_array_equal(source[0], before)


@needs_opencv
@pytest.mark.parametrize("preset", PRESETS)
def test_the_images_of_the_user_are_never_written_to(preset, rng):
    images = rng.integers(0, 256, (9, 16, 16, 3), "uint8")
    before = images.copy()
    for source in ((images, np.arange(9)), list(zip(images, np.arange(9), strict=True))):
        loader = Loader(source, 4, augmentation=preset, num_classes=9)
        for batch in loader:
            assert batch[0].dtype == np.uint8
            batch[0][:] = 0
        np.testing.assert_array_equal(images, before)
