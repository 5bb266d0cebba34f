"""Images per second of training input at 224 px, beside torchvision and tf.data.

JPEG files of real photos are decoded, cropped, augmented and put into batches of uint8. Pipelines:

- "once": the centre of each photo, not augmented, in one pass that begins with the folder;
- "standard": random-resized crop, flip, colour jitter (brightness, contrast, saturation .4, hue .1);
- "randaugment": random-resized crop, flip, RandAugment (2 operations, magnitude 9).

The sides, each as its users write it where they want it fast:

- "keras_transfer" is a loop over `from_directory`, with all its defaults. Of "once" its look at all
  files is a part, as it makes it anew for each folder; the other sides don't look.
- "keras_transfer, old" is another build, whose folder `--old` names, in the same environment.
- "torchvision" is v2 transforms on uint8 in a `DataLoader` with processes. Photos are turned as EXIF
  tells, and read by its `decode_image`, by Pillow and made tensors, or stay Pillow images to the end;
  for "once" Pillow may decode them smaller, but not below twice the size.
- "tf.data" maps ops of `tf.image` with AUTOTUNE, in any order, and decodes whole photos or only the
  crop; for "once" large ones at a quarter, too. It turns none, and resizes without antialiasing, as is
  usual there. RandAugment is the layer of Keras, mapped over images, or over batches, all images of
  which it then changes by the same operations.
- "tf.data, antialias" does without the shortcut, as the other two.

Of the several ways a side has (readers, numbers of processes, ...), each is measured once, and the
fastest takes part. A measurement is a process of its own; it takes an epoch of batches to warm up and is
timed over the next, or, of "once", over another that begins with nothing read ahead. The sides take
turns, and the median of their rounds counts.

torchvision needs an environment of its own, as its compiled part fits one build of torch only; without
`--torchvision` that side is left out:

    python -m venv tv
    tv/bin/pip install torch==2.14.1 torchvision==0.29.1

Photos are those in the folders "flowers" and "hymenoptera" of "Real images and weights" in
CONTRIBUTING.md, whose longest sides are about 256 px: as they are; enlarged to the size that is usual
in ImageNet; or to the 12 megapixels of a phone, with noise as a sensor has it and EXIF that turns them.

    python benchmarks/input_pipeline.py --torchvision tv/bin/python
    python benchmarks/input_pipeline.py --torchvision tv/bin/python --longest 256
    git clone . old && git -C old checkout 14fa648  # needs grain: pip install grain
    python benchmarks/input_pipeline.py --torchvision tv/bin/python --old old \
        --pipelines once --longest 500 4032 --rounds 5
"""

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

SIZE, BATCH = 224, 32
PIPELINES = ("once", "standard", "randaugment")
PHONE = 4032  # px, the longest side of 12 megapixels
BATCHES = {256: 19, 500: 19, PHONE: 8}  # an epoch
DIFFERENT = 32  # photos of a phone; the others are copies of their files
SETTLED = 3  # seconds in which threads and processes end that were reading ahead
ORIENTATIONS = (1, 6, 3, 8)  # of EXIF, as a phone is held
STRENGTH, HUE = 0.4, 0.1
DRAFTED = "Pillow, decoded smaller"
QUARTER = "at a quarter"
OPERATIONS, MAGNITUDE, BINS = 2, 9, 30


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--torchvision", metavar="PYTHON", help="the interpreter that has torchvision")
    parser.add_argument("--old", metavar="FOLDER", help="another build of keras_transfer")
    parser.add_argument("--longest", type=int, nargs="+", choices=BATCHES, default=[500], help="px")
    parser.add_argument("--pipelines", nargs="+", choices=PIPELINES, default=PIPELINES)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=tuple(SIDES))
    parser.add_argument("--batches", type=int, help=f"an epoch, of {BATCH} images each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)  # a measurement: what `rate` is given
    given = parser.parse_args()
    if given.old and not Path(given.old, "keras_transfer").is_dir():
        parser.error(f"--old must be a folder with keras_transfer in it. Received: {given.old!r}")
    return given


def keras_transfer_batches(folder, pipeline, way):
    """Yield batches of a `Loader`, without end."""
    from keras_transfer import data

    steps = {
        "standard": partial(
            data.color_jitter, brightness=STRENGTH, contrast=STRENGTH, saturation=STRENGTH, hue=HUE
        ),
        "randaugment": partial(data.rand_augment, num_ops=OPERATIONS, magnitude=MAGNITUDE),
    }
    augmentation = None
    if pipeline != "once":
        augmentation = data.Compose((data.random_flip, steps[pipeline]), crop=data.random_resized_crop)
    loader = data.from_directory(folder, image_size=SIZE, batch_size=BATCH, augmentation=augmentation)
    while True:
        yield from loader


class Photos:
    """A data set as torchvision's users write it."""

    def __init__(self, folder, pipeline, reader):
        from torchvision.transforms import v2

        crop = v2.RandomResizedCrop(SIZE, antialias=True)
        changes = {
            "once": [v2.Resize(SIZE, antialias=True), v2.CenterCrop(SIZE)],
            "standard": [
                crop,
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(STRENGTH, STRENGTH, STRENGTH, HUE),
            ],
            "randaugment": [crop, v2.RandomHorizontalFlip(), v2.RandAugment(OPERATIONS, MAGNITUDE)],
        }[pipeline]
        place = {"decode_image": [], "Pillow to tensor": [0]}.get(reader, [len(changes)])
        for index in place:
            changes.insert(index, v2.PILToTensor())
        self.transform = v2.Compose(changes)
        self.reader = reader
        classes = sorted(path.name for path in Path(folder).iterdir())
        self.samples = [
            (str(path), classes.index(path.parent.name)) for path in Path(folder).glob("*/*.jpg")
        ]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        from PIL import Image, ImageOps
        from torchvision.io import ImageReadMode, decode_image

        path, label = self.samples[index]
        if self.reader == "decode_image":
            image = decode_image(path, ImageReadMode.RGB, apply_exif_orientation=True)
            return self.transform(image), label
        with Image.open(path) as image:
            if self.reader == DRAFTED:
                image.draft("RGB", (2 * SIZE, 2 * SIZE))
            return self.transform(ImageOps.exif_transpose(image.convert("RGB"))), label


def torchvision_batches(folder, pipeline, way):
    """Return batches of a `DataLoader`, of epochs enough."""
    from torch.utils.data import DataLoader, RandomSampler

    reader, processes = way.rsplit(", ", 1)
    photos = Photos(folder, pipeline, reader)
    sampler = RandomSampler(photos, num_samples=3 * len(photos))
    return DataLoader(photos, BATCH, sampler=sampler, num_workers=int(processes.split()[0]))


def tf_random_part(way):
    """Return a function that reads a random part of a photo."""
    import tensorflow as tf

    def read(path):
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
        if "decode_jpeg" in way:
            image = tf.slice(tf.io.decode_jpeg(content, channels=3), begin, size)
        else:
            window = tf.concat([begin[:2], size[:2]], axis=0)
            image = tf.io.decode_and_crop_jpeg(content, window, channels=3)
        image = tf.ensure_shape(image, (None, None, 3))
        image = tf.image.resize(image, (SIZE, SIZE), antialias="antialias" in way)
        return tf.image.random_flip_left_right(image)

    return read


def tf_centre(way):
    """Return a function that reads the centre of a photo."""
    import tensorflow as tf

    def read(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3, ratio=4 if QUARTER in way else 1)
        side = tf.reduce_min(tf.shape(image)[:2])
        image = tf.image.resize_with_crop_or_pad(image, side, side)
        return tf.image.resize(image, (SIZE, SIZE), antialias="antialias" in way)

    return read


def tf_data_batches(folder, pipeline, way):
    """Yield batches of a `Dataset`, without end."""
    import keras
    import tensorflow as tf

    over_batches = "over batches" in way
    paths = sorted(map(str, Path(folder).glob("*/*.jpg")))
    names = [Path(path).parent.name for path in paths]
    labels = [sorted(set(names)).index(name) for name in names]
    layer = keras.layers.RandAugment((0, 255), OPERATIONS, factor=MAGNITUDE / BINS)
    read = (tf_centre if pipeline == "once" else tf_random_part)(way)

    def jittered(image):
        # Of 0 to 255 and in floating point, which spares each op two conversions.
        image = tf.image.random_brightness(image, STRENGTH * 255)
        image = tf.image.random_contrast(image, 1 - STRENGTH, 1 + STRENGTH)
        image = tf.image.random_saturation(image, 1 - STRENGTH, 1 + STRENGTH)
        return tf.image.random_hue(image, HUE)

    def as_bytes(images, labels):
        return tf.saturate_cast(images, tf.uint8), labels

    changes = {"once": tf.identity, "standard": jittered, "randaugment": partial(layer, training=True)}
    change = changes[pipeline]

    def sample(path, label):
        image = read(path)
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


OWN, OLD = "keras_transfer", "keras_transfer, old"
SIDES = {
    OWN: keras_transfer_batches,
    OLD: keras_transfer_batches,
    "torchvision": torchvision_batches,
    "tf.data": tf_data_batches,
    "tf.data, antialias": tf_data_batches,
}


def ways(side, pipeline, longest):
    """Return the ways a side may do it."""
    smaller = pipeline == "once" and longest == PHONE
    if side == "torchvision":
        readers = ("decode_image", "Pillow to tensor", "Pillow", *[DRAFTED] * smaller)
        return [f"{reader}, {n} processes" for reader in readers for n in (1, 2, 3)]
    if side.startswith("tf.data"):
        option = side.removeprefix("tf.data")
        if pipeline == "once":
            return [f"decode_jpeg{option}{each}" for each in ("", *[f", {QUARTER}"] * smaller)]
        maps = ("",) if pipeline == "standard" else (", over images", ", over batches")
        decoders = ("decode_jpeg", "decode_and_crop_jpeg")
        return [f"{decoder}{option}{each}" for decoder in decoders for each in maps]
    return ["the defaults"]


def rate(side, pipeline, way, folder):
    """Return the images per second of one side, in this process."""
    make = partial(SIDES[side], folder, pipeline, way)
    dataset = make()
    batches = iter(dataset)
    count = sum(1 for _ in Path(folder).glob("*/*.jpg")) // BATCH
    for _ in itertools.islice(batches, count):
        pass
    if pipeline == "once":
        del batches
        if side in (OWN, OLD):
            dataset.close()
        time.sleep(SETTLED)
    start = time.perf_counter()
    if pipeline == "once":
        batches = iter(make() if side in (OWN, OLD) else dataset)
    for images, _ in itertools.islice(batches, count):
        assert len(images) == BATCH
        assert "uint8" in str(images.dtype)
    return count * BATCH / (time.perf_counter() - start)


def measured(side, *task, given):
    """Return the images per second of one side, in a process of its own."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    if side.startswith("tf.data"):
        environment["KERAS_BACKEND"] = "tensorflow"
    if side == OLD:
        environment["PYTHONPATH"] = str(Path(given.old).resolve())
    python = given.torchvision if side == "torchvision" else sys.executable
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
    found = sorted(found)[:: len(found) // DIFFERENT][:DIFFERENT] if longest == PHONE else sorted(found)
    sizes, written = [], {}
    for number, path in enumerate(itertools.islice(itertools.cycle(found), count)):
        target = Path(folder, path.parent.name, f"{number}.jpg")
        target.parent.mkdir(exist_ok=True)
        if longest == 256 or path in written:
            shutil.copyfile(written.get(path, path), target)
        elif longest == PHONE:
            write_as_phone(path, target, ORIENTATIONS[number % len(ORIENTATIONS)])
            written[path] = target
        else:
            with Image.open(path) as image:
                scale = longest / max(image.size)
                image = image.convert("RGB").resize([round(scale * side) for side in image.size])
                image.save(target, quality=90)
        with Image.open(target) as image:
            sizes.append((*image.size, target.stat().st_size))
    return [sum(values) / count for values in zip(*sizes, strict=True)]


def write_as_phone(path, target, orientation):
    """Write a photo as a phone would: of 12 megapixels, with noise, to be turned."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((PHONE, 3 * PHONE // 4)), "float32")
    pixels = pixels + np.random.default_rng(0).normal(0, 4, (*pixels.shape[:2], 1)).astype("float32")
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(target, quality=90, exif=exif)


def compared(pipeline, longest, folder, sides, given, tell):
    """Yield, for each side, the way that is fastest of those that it has, and its images per second."""
    best = dict.fromkeys(sides, (0.0, ""))
    for side in sides:
        for way in ways(side, pipeline, longest):
            found = measured(side, pipeline, way, folder, given=given)
            tell(f"{pipeline}, {longest} px, {side}: {way}: {found:.1f} images/s")
            best[side] = max(best[side], (found, way))
    rounds = {side: [] for side in sides}
    for side in [*sides] * given.rounds:
        rounds[side].append(measured(side, pipeline, best[side][1], folder, given=given))
    for side, found in rounds.items():
        yield side, best[side][1], statistics.median(found)


def main(given):
    """Measure and print a table for each size of photos."""
    import rich.console
    import rich.table

    there = {"torchvision": given.torchvision, OLD: given.old}
    sides = [side for side in given.sides if there.get(side, True)]
    console = rich.console.Console(width=100)
    for longest in given.longest:
        with tempfile.TemporaryDirectory() as folder:
            count = (given.batches or BATCHES[longest]) * BATCH
            width, height, size = copy_photos(folder, count, longest)
            title = f"JPEGs of {width:.0f} x {height:.0f} px and {size / 1000:.0f} kB on average"
            columns = ("pipeline", "side", "way", "images/s", "over keras_transfer")
            table = rich.table.Table(*columns, title=title)
            for pipeline in given.pipelines:
                rows = list(compared(pipeline, longest, folder, sides, given, console.print))
                own = next((found for side, _, found in rows if side == OWN), float("nan"))
                for side, way, found in rows:
                    table.add_row(pipeline, side, way, f"{found:.1f}", f"{found / own:.2f}")
        console.print(table)


if __name__ == "__main__":
    options = arguments()
    if options.one:
        print(rate(*options.one))
    else:
        main(options)
