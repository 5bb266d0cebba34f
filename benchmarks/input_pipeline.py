"""Images per second of training input at 224 px, beside torchvision and tf.data.

JPEG files of real photos are decoded, cropped, augmented and put into batches of uint8. Two pipelines:

- "standard": random-resized crop, flip, colour jitter (brightness, contrast, saturation .4, hue .1);
- "randaugment": random-resized crop, flip, RandAugment (2 operations, magnitude 9).

The sides, each as its users write it where they want it fast:

- "keras_transfer" is a loop over `from_directory`, with all its defaults.
- "torchvision" is v2 transforms on uint8 in a `DataLoader` with processes. Photos are read by its
  `decode_image`, by Pillow and turned into tensors, or stay Pillow images to the end.
- "tf.data" maps ops of `tf.image` with AUTOTUNE, in any order, and decodes whole photos or only the
  crop; it resizes without antialiasing, as is usual there. RandAugment is the layer of Keras, mapped
  over images, or over batches, all images of which it then changes by the same operations.
- "tf.data, antialias" does without the shortcut, as the other two.

Of the several ways a side has (readers, numbers of processes, ...), each is measured once, and the
fastest takes part. A measurement is a process of its own; it takes an epoch of batches to warm up and is
timed over the next. The sides take turns, and the best of their rounds counts.

torchvision needs an environment of its own, as its compiled part fits one build of torch only; without
`--torchvision` that side is left out:

    python -m venv tv
    tv/bin/pip install torch==2.14.1 torchvision==0.29.1

Photos are those in the folders "flowers" and "hymenoptera" of "Real images and weights" in
CONTRIBUTING.md, whose longest sides are about 256 px: as they are, or enlarged to the size that is usual
in ImageNet.

    python benchmarks/input_pipeline.py --torchvision tv/bin/python
    python benchmarks/input_pipeline.py --torchvision tv/bin/python --longest 256
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

SIZE, BATCH = 224, 32
PIPELINES = ("standard", "randaugment")
STRENGTH, HUE = 0.4, 0.1
OPERATIONS, MAGNITUDE, BINS = 2, 9, 30


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--torchvision", metavar="PYTHON", help="the interpreter that has torchvision")
    parser.add_argument("--longest", type=int, choices=(256, 500), default=500, help="of a photo, in px")
    parser.add_argument("--pipelines", nargs="+", choices=PIPELINES, default=PIPELINES)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=tuple(SIDES))
    parser.add_argument("--batches", type=int, default=19, help=f"an epoch, of {BATCH} images each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)  # a measurement: what `rate` is given
    return parser.parse_args()


def keras_transfer_batches(folder, pipeline, way):
    """Yield batches of a `Loader`, without end."""
    from keras_transfer import data

    steps = {
        "standard": partial(
            data.color_jitter, brightness=STRENGTH, contrast=STRENGTH, saturation=STRENGTH, hue=HUE
        ),
        "randaugment": partial(data.rand_augment, num_ops=OPERATIONS, magnitude=MAGNITUDE),
    }
    augmentation = data.Compose((data.random_flip, steps[pipeline]), crop=data.random_resized_crop)
    loader = data.from_directory(folder, image_size=SIZE, batch_size=BATCH, augmentation=augmentation)
    while True:
        yield from loader


class Photos:
    """A data set as torchvision's users write it."""

    def __init__(self, folder, pipeline, reader):
        from torchvision.transforms import v2

        steps = {
            "standard": v2.ColorJitter(STRENGTH, STRENGTH, STRENGTH, HUE),
            "randaugment": v2.RandAugment(OPERATIONS, MAGNITUDE),
        }
        crop = v2.RandomResizedCrop(SIZE, antialias=True)
        changes = [crop, v2.RandomHorizontalFlip(), steps[pipeline]]
        place = {"decode_image": [], "Pillow to tensor": [0], "Pillow": [len(changes)]}[reader]
        for index in place:
            changes.insert(index, v2.PILToTensor())
        self.transform = v2.Compose(changes)
        self.decodes = reader == "decode_image"
        classes = sorted(path.name for path in Path(folder).iterdir())
        self.samples = [
            (str(path), classes.index(path.parent.name)) for path in Path(folder).glob("*/*.jpg")
        ]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        from PIL import Image
        from torchvision.io import ImageReadMode, decode_image

        path, label = self.samples[index]
        if self.decodes:
            return self.transform(decode_image(path, ImageReadMode.RGB)), label
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), label


def torchvision_batches(folder, pipeline, way):
    """Return batches of a `DataLoader`, of epochs enough."""
    from torch.utils.data import DataLoader, RandomSampler

    reader, processes = way.split(", ")
    photos = Photos(folder, pipeline, reader)
    sampler = RandomSampler(photos, num_samples=3 * len(photos))
    return DataLoader(photos, BATCH, sampler=sampler, num_workers=int(processes.split()[0]))


def tf_data_batches(folder, pipeline, way):
    """Return batches of a `Dataset`, without end."""
    import keras
    import tensorflow as tf

    whole, over_batches = "decode_jpeg" in way, "over batches" in way
    paths = sorted(map(str, Path(folder).glob("*/*.jpg")))
    names = [Path(path).parent.name for path in paths]
    labels = [sorted(set(names)).index(name) for name in names]
    layer = keras.layers.RandAugment((0, 255), OPERATIONS, factor=MAGNITUDE / BINS)

    def cropped(path):
        content = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(content),
            tf.zeros((1, 0, 4)),
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        if whole:
            image = tf.slice(tf.io.decode_jpeg(content, channels=3), begin, size)
        else:
            window = tf.concat([begin[:2], size[:2]], axis=0)
            image = tf.io.decode_and_crop_jpeg(content, window, channels=3)
        image = tf.ensure_shape(image, (None, None, 3))
        image = tf.image.resize(image, (SIZE, SIZE), antialias="antialias" in way)
        return tf.image.random_flip_left_right(image)

    def jittered(image):
        # Of 0 to 255 and in floating point, which spares each op two conversions.
        image = tf.image.random_brightness(image, STRENGTH * 255)
        image = tf.image.random_contrast(image, 1 - STRENGTH, 1 + STRENGTH)
        image = tf.image.random_saturation(image, 1 - STRENGTH, 1 + STRENGTH)
        return tf.image.random_hue(image, HUE)

    def as_bytes(images, labels):
        return tf.saturate_cast(images, tf.uint8), labels

    change = jittered if pipeline == "standard" else partial(layer, training=True)

    def sample(path, label):
        image = cropped(path)
        return (image, label) if over_batches else as_bytes(change(image), label)

    photos = tf.data.Dataset.from_tensor_slices((paths, labels)).shuffle(len(paths)).repeat()
    photos = photos.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    batches = photos.batch(BATCH, drop_remainder=True)
    if over_batches:
        batches = batches.map(
            lambda images, labels: as_bytes(change(images), labels),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=False,
        )
    return batches.prefetch(tf.data.AUTOTUNE)


SIDES = {
    "keras_transfer": keras_transfer_batches,
    "torchvision": torchvision_batches,
    "tf.data": tf_data_batches,
    "tf.data, antialias": tf_data_batches,
}


def ways(side, pipeline):
    """Return the ways a side may do it."""
    if side == "torchvision":
        readers = ("decode_image", "Pillow to tensor", "Pillow")
        return [f"{reader}, {n} processes" for reader in readers for n in (1, 2, 3)]
    if side.startswith("tf.data"):
        decoders, option = ("decode_jpeg", "decode_and_crop_jpeg"), side.removeprefix("tf.data")
        maps = ("",) if pipeline == "standard" else (", over images", ", over batches")
        return [f"{decoder}{option}{each}" for decoder in decoders for each in maps]
    return ["the defaults"]


def rate(side, pipeline, way, folder):
    """Return the images per second of one side, in this process."""
    batches = iter(SIDES[side](folder, pipeline, way))
    count = sum(1 for _ in Path(folder).glob("*/*.jpg")) // BATCH
    for _ in itertools.islice(batches, count):
        pass
    start = time.perf_counter()
    for images, _ in itertools.islice(batches, count):
        assert len(images) == BATCH
        assert "uint8" in str(images.dtype)
    return count * BATCH / (time.perf_counter() - start)


def measured(side, *task, python):
    """Return the images per second of one side, in a process of its own."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    if side.startswith("tf.data"):
        environment["KERAS_BACKEND"] = "tensorflow"
    command = [python, __file__, "--one", side, *map(str, task)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
    return float(done.stdout.split()[-1])


def copy_photos(folder, count, longest):
    """Put photos into a folder for each class and return their mean width, height and bytes."""
    from PIL import Image

    root = Path(os.environ["KERAS_TRANSFER_REAL_DATA"])
    found = [path for name in ("flowers", "hymenoptera") for path in (root / name).rglob("*.jpg")]
    sizes = []
    for number, path in enumerate(itertools.islice(itertools.cycle(sorted(found)), count)):
        target = Path(folder, path.parent.name, f"{number}.jpg")
        target.parent.mkdir(exist_ok=True)
        with Image.open(path) as image:
            if longest == 256:
                shutil.copyfile(path, target)
            else:
                scale = longest / max(image.size)
                image = image.convert("RGB").resize([round(scale * side) for side in image.size])
                image.save(target, quality=90)
            sizes.append((*image.size, target.stat().st_size))
    return [sum(values) / count for values in zip(*sizes, strict=True)]


def main(given):
    """Measure and print a table."""
    import rich.console
    import rich.table

    python = dict.fromkeys(SIDES, sys.executable) | {"torchvision": given.torchvision}
    sides = [side for side in given.sides if python[side]]
    console = rich.console.Console(width=100)
    with tempfile.TemporaryDirectory() as folder:
        width, height, size = copy_photos(folder, given.batches * BATCH, given.longest)
        title = f"JPEGs of {width:.0f} x {height:.0f} px and {size / 1000:.0f} kB on average"
        columns = ("pipeline", "side", "way", "images/s", "over keras_transfer")
        table = rich.table.Table(*columns, title=title)
        for pipeline in given.pipelines:
            # The way that is fastest, of those that a side has.
            best = dict.fromkeys(sides, (0.0, ""))
            for side in sides:
                for way in ways(side, pipeline):
                    found = measured(side, pipeline, way, folder, python=python[side])
                    console.print(f"{pipeline}, {side}: {way}: {found:.0f} images/s")
                    best[side] = max(best[side], (found, way))
            fastest = dict.fromkeys(sides, 0.0)
            for side in sides * given.rounds:
                found = measured(side, pipeline, best[side][1], folder, python=python[side])
                fastest[side] = max(fastest[side], found)
            own = fastest.get("keras_transfer", float("nan"))
            for side, found in fastest.items():
                table.add_row(pipeline, side, best[side][1], f"{found:.0f}", f"{found / own:.2f}")
    console.print(table)


if __name__ == "__main__":
    options = arguments()
    if options.one:
        print(rate(*options.one))
    else:
        main(options)
