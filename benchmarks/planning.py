"""What features of as many images as ImageNet has, and fine-tuning on them, cost on several devices.

First it measures one device, the machine that it runs on (its GPU, if the backend sees one):

- images a second that a `kt.Loader` reads, decodes and resizes, without and with augmentation;
- images a second that the frozen network computes, in float32 and in a bfloat16 pass, and that a
  training step takes of everything, of the last stage and of the head, the last two on features;
- MB a second of features that are written and read, and their bytes for an image at several cuts.

Weights are random, as only time is measured. Then it works out hours, images a second and the
bottleneck on several such devices (`planning_model.py` has the formulas), from these figures and from
what was not measured: the network between devices (`--network`, `--latency`), the storage that they
share (`--storage`) and the start of workers (`--start`). Tables are in Markdown.

    python benchmarks/planning.py --backend torch --images 1281167

The tables of docs/guides/planning.md and its picture, measured anew, or worked out from the figures that
are there, with other assumptions:

    python benchmarks/planning.py --backend tensorflow --output benchmarks/planning.json --write-docs
    python benchmarks/planning.py --figures benchmarks/planning.json --network 12500 --cores 16

The guide has the assumptions that are the defaults; `tests/test_planning.py` tells if it hasn't.
"""

import argparse
import io
import json
import math
import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import planning_model
from planning_model import Cluster, Estimate, Work

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guides" / "planning.md"
PICTURE = ROOT / "docs" / "pictures" / "planning" / "hours.png"
BATCH, NETWORKS = 32, ("resnet50", "mobilenet_v2")
COUNTS = (1, 8, 64)
# Seconds for each measurement, bytes of features that are written, and photos.
THOROUGH, QUICK = (4.0, 128e6, 256), (0.2, 16e6, 64)
SHARE = 0.1  # of the time that a step computes, that gradients may take
MARKERS = dict(
    zip(
        ("compute", "decode", "copy", "storage", "network", "gradients", "digest"),
        "osvD^PX",
        strict=True,
    )
)


def arguments(given=None):
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    add("--backbones", nargs="+", default=NETWORKS, help="names that kt.classifier knows; at 224 px")
    add("--quick", action="store_true", help="shorter measurements, which tell little")
    add("--directory", help="a folder on the disk that is measured; by default that of temporary files")
    add("--figures", type=Path, help="JSON file with figures, instead of measuring")
    add("--output", type=Path, help="JSON file for the figures")
    add("--images", type=int, default=1281167)
    add("--epochs", type=int, default=10)
    add("--views", type=int, help="augmented versions of each image that are extracted")
    add("--devices", type=int, nargs="+", default=COUNTS)
    add("--batch-size", type=int, help="of one device; by default 32, or that of the figures")
    add("--cores", type=int, help="that decode for one device; by default those there are for each")
    add("--network", type=float, default=1250.0, help="MB/s of one device; 1250: 10 Gbit/s")
    add("--latency", type=float, default=50e-6, help="seconds of a message between devices")
    add("--storage", type=float, default=2000.0, help="MB/s of the storage that several devices share")
    add("--start", type=float, default=60.0, help="seconds until the workers of several devices compute")
    add("--faster", type=float, default=100.0, help="for a device that computes so many times faster")
    add("--faster-cores", type=int, default=8, help="cores that decode for such a device")
    add("--write-docs", action="store_true", help="write the tables and the picture of the guide")
    return parser.parse_args(given)


def measured(given):
    """Return the figures of this machine."""
    os.environ["KERAS_BACKEND"] = given.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import planning_measure as measure

    at_least, total, photos = QUICK if given.quick else THOROUGH
    batch = given.batch_size or BATCH
    with tempfile.TemporaryDirectory(dir=given.directory) as folder:
        jpegs = Path(folder, "photos")
        machine = measure.machine()
        cores = machine["cores"]
        figures = {
            "machine": machine,
            "batch_size": batch,
            "quick": given.quick,
            "photos": measure.put_photos(jpegs, photos),
            "input": measure.input_rates(jpegs, cores, batch, at_least),
            "files": measure.file_rates(jpegs),
        }
        figures["networks"] = [
            measure.network_figures(name, folder, cores, batch, at_least, total)
            for name in given.backbones
        ]
    return json.loads(json.dumps(figures))


@dataclass(frozen=True)
class Device:
    """One device as it was measured, or as one imagines it.

    Attributes:
        figures: of the machine.
        cores: that decode for it.
        faster: how many times faster than measured it computes.
        accelerator: whether it computes on something else than these cores.
    """

    figures: dict
    cores: int
    faster: float
    accelerator: bool

    def decoded(self, augmentation):
        """Return the images a second that the cores decode."""
        machine = self.figures["machine"]
        return self.figures["input"][augmentation]["all threads"] * self.cores / machine["cores"]

    def extraction(self, part, dtype="float32", compute_dtype="float32", augmentation="none"):
        """Return the work of extracting the features that a part of the network trains on."""
        photo, files = self.figures["photos"]["bytes"], self.figures["files"]
        return Work(
            compute=self.faster * part["forward"][compute_dtype],
            prepare=self.decoded(augmentation),
            kind="decode",
            apart=self.accelerator,
            read=photo,
            written=nbytes(part["shape"], dtype),
            disk_read=files["read"],
            disk_write=part["disk"][dtype]["write"],
        )

    def on_features(self, part, images=math.inf, dtype="float32"):
        """Return the work of a training step on features, which half of the memory may hold."""
        size, rates = nbytes(part["shape"], dtype), part["disk"][dtype]
        fits = images * size <= self.figures["machine"]["memory"] / 2
        return Work(
            compute=self.faster * part["step"],
            prepare=rates["copy"] * planning_model.MEGA / size,
            kind="copy",
            apart=False,
            ahead=False,
            read=0.0 if fits else size,
            disk_read=rates["disk"],
            gradients=part["gradients"],
        )

    def on_images(self, part):
        """Return the work of a training step on augmented images."""
        return Work(
            compute=self.faster * part["step"],
            prepare=self.decoded("standard"),
            kind="decode",
            apart=self.accelerator,
            read=self.figures["photos"]["bytes"],
            disk_read=self.figures["files"]["read"],
            gradients=part["gradients"],
        )


def devices_of(figures, given):
    """Return the device that was measured, and the faster one."""
    machine = figures["machine"]
    each = machine["cores"] // max(1, machine["accelerators"])
    own = Device(figures, given.cores or max(1, each), 1.0, machine["accelerators"] > 0)
    return own, replace(own, cores=given.faster_cores, faster=given.faster, accelerator=True)


def nbytes(shape, dtype="float32"):
    """Return the bytes of the features of an image."""
    return math.prod(shape) * (4 if dtype == "float32" else 2)


def cluster(count, given):
    """Return so many devices."""
    return Cluster(count, given.network, given.latency, given.storage, given.start)


def passes(device, network, given):
    """Yield (name, function of a number of devices) of the ways to extract features."""
    parts = network["parts"]
    digests = device.figures["files"]["digests"]
    for part, dtype, compute_dtype in (
        ("head", "float32", "float32"),
        ("head", "float32", "bfloat16"),
        ("last stage", "float32", "float32"),
        ("last stage", "bfloat16", "bfloat16"),
    ):
        kept = "" if dtype == "float32" else f", kept in {dtype}"
        computed = "" if compute_dtype == "float32" else f", computed in {compute_dtype}"
        augmentation = "standard" if given.views else "none"
        work = device.extraction(parts[part], dtype, compute_dtype, augmentation)
        yield (
            f"up to `{parts[part]['cut']}`{kept}{computed}",
            lambda count, work=work: planning_model.extraction(
                work, cluster(count, given), given.images, given.views or 1, digests
            ),
        )


def trainings(device, network, given):
    """Yield (name, work, function of a number of devices) of the ways to train."""
    parts, batch = network["parts"], given.batch_size or device.figures["batch_size"]
    versions = given.images * (given.views or 1)
    works = {
        "head, on features": device.on_features(parts["head"], versions),
        "last stage, on features": device.on_features(parts["last stage"], versions),
        "last stage, kept in bfloat16": device.on_features(parts["last stage"], versions, "bfloat16"),
        "everything, on images": device.on_images(parts["everything"]),
    }
    for name, work in works.items():
        yield (
            name,
            work,
            lambda count, work=work: planning_model.training(
                work, cluster(count, given), given.images, given.epochs, batch
            ),
        )


def shown_hours(hours):
    """Return a time in words."""
    if hours < 1:
        return f"{60 * hours:.0f} min" if hours >= 1 / 6 else f"{60 * hours:.1f} min"
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.1f} h"


def three_digits(value):
    """Return a number with three digits, two of them behind the point at most."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{round(value, digits):,.{min(max(digits, 0), 2)}f}"


def shown_bytes(count):
    """Return a size in the unit that suits it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{three_digits(count)} {unit}"
        count /= 1000
    return f"{three_digits(count)} TB"


def shown(estimate: Estimate):
    """Return an estimate as a cell of a table."""
    return f"{shown_hours(estimate.hours)}, {three_digits(estimate.rate)}/s, {estimate.bottleneck}"


def machine_table(figures):
    """Return what was measured of the machine."""
    machine, photos, files = figures["machine"], figures["photos"], figures["files"]
    kind = "an accelerator" if machine["accelerators"] else "no GPU"
    rows = [
        [
            "device",
            f"{machine['device']}, {machine['cores']} cores, {kind}, "
            f"{machine['memory'] / 2**30:.0f} GiB, {machine['backend']}",
        ],
        [
            "JPEG files",
            f"{photos['origin']} of {photos['width']:.0f} x {photos['height']:.0f} px and "
            f"{shown_bytes(photos['bytes'])} on average",
        ],
    ]
    for augmentation, words in (("none", "decoded"), ("standard", 'with `augmentation="standard"`')):
        rates = figures["input"][augmentation]
        each = rates["all threads"] / machine["cores"]
        rows.append(
            [
                f"{words}, images/s",
                f"{three_digits(rates['1 thread'])} with 1 thread, {three_digits(rates['all threads'])} "
                f"with {machine['cores']}: {three_digits(each)} a core",
            ]
        )
    cold = "not in memory" if files["cold"] else "perhaps in memory"
    rows += [
        [f"files read, {cold}", f"{three_digits(files['read'])} MB/s"],
        ["digests of the files, one process", f"{three_digits(files['digests'])} images/s"],
    ]
    return planning_model.markdown(["", "measured"], rows)


def network_table(figures):
    """Return the images a second of the networks."""
    rows = []
    for network in figures["networks"]:
        for name, part in network["parts"].items():
            forward = part.get("forward", {})
            rows.append(
                [
                    f"{network['name']}, {name}",
                    f"`{part['cut']}`" if "cut" in part else "",
                    three_digits(forward["float32"]) if forward else "",
                    three_digits(forward["bfloat16"]) if forward else "",
                    three_digits(part["step"]),
                    shown_bytes(part["gradients"]),
                ]
            )
    columns = ["what trains", "cut", "frozen part", "in bfloat16", "training step", "gradients"]
    return planning_model.markdown(columns, rows)


def together_table(figures):
    """Return how well the formulas foresee a pass that was measured as a whole."""
    alone = Cluster(1, math.inf, 0.0, math.inf, 0.0)
    rows = []
    for network in figures["networks"]:
        found = network["together"]
        work = Work(found["compute"], found["decode"], "decode", figures["machine"]["accelerators"] > 0)
        rate = planning_model.extraction(work, alone, found["images"], digest=found["digest"]).rate
        cells = [found[name] for name in ("compute", "decode", "digest", "together")]
        rows.append([network["name"], *map(three_digits, [*cells, rate]), f"{rate / cells[-1]:.2f}"])
    columns = ["", "compute", "decode", "digest", "the pass, measured", "worked out", "ratio"]
    return planning_model.markdown(columns, rows)


def cut_table(figures, given):
    """Return what the features of all images take at several cuts."""
    photo = figures["photos"]["bytes"]
    rows = [["JPEG files", "", "", shown_bytes(photo), "", shown_bytes(photo * given.images)]]
    for network in figures["networks"]:
        for cut in network["cuts"]:
            size = nbytes(cut["shape"]) * (given.views or 1)
            rows.append(
                [
                    f"{network['name']}, `{cut['at']}`",
                    " x ".join(map(str, cut["shape"])),
                    f"{100 * cut['part']:.0f} %",
                    shown_bytes(size),
                    shown_bytes(size / 2),
                    f"{shown_bytes(size * given.images)}, {shown_bytes(size / 2 * given.images)}",
                ]
            )
    columns = ["cut", "numbers", "work before it", "float32", "16 bits", f"of {given.images:,} images"]
    return planning_model.markdown(columns, rows)


def disk_table(figures):
    """Return how fast features are written and read."""
    rows = []
    for network in figures["networks"]:
        for name in ("head", "last stage"):
            part = network["parts"][name]
            for dtype, rates in part["disk"].items():
                size = nbytes(part["shape"], dtype)
                cold = 1 / (1 / rates["copy"] + 1 / rates["disk"])
                cells = [f"{network['name']}, `{part['cut']}`, {dtype}", shown_bytes(size)]
                cells += [three_digits(rate) for rate in (rates["write"], cold, rates["copy"])]
                rows.append([*cells, three_digits(rates["copy"] * planning_model.MEGA / size)])
    columns = [
        "features",
        "of an image",
        "written, MB/s",
        "read, not in memory",
        "in memory",
        "images/s",
    ]
    return planning_model.markdown(columns, rows)


def speed(device):
    """Return in words how fast a device computes."""
    return "as measured" if device.faster == 1 else f"{device.faster:g} times faster (assumed)"


def plan_table(device, given, ways):
    """Return estimates for each number of devices."""
    rows = [
        [f"{network['name']}, {way[0]}", *(shown(way[-1](count)) for count in given.devices)]
        for network in device.figures["networks"]
        for way in ways(device, network, given)
    ]
    counts = [f"{count} device{'s' * (count > 1)}" for count in given.devices]
    return planning_model.markdown(["", *counts], rows)


def limit_table(both, given):
    """Return where the bottleneck moves, for the device that was measured and for the faster one."""
    most = cluster(max(given.devices), given)
    rows = []
    for device in both:
        for network in device.figures["networks"]:
            parts = network["parts"]
            core = device.decoded("none") / device.cores
            work = device.extraction(parts["head"])
            stage = device.on_features(parts["last stage"])
            train = device.on_images(parts["everything"])
            rows.append(
                [
                    f"{network['name']}, {speed(device)}",
                    three_digits(work.compute / core),
                    three_digits(train.compute / (device.decoded("standard") / device.cores)),
                    three_digits(planning_model.devices_until_storage(work, given.storage)),
                    three_digits(planning_model.devices_until_storage(stage, given.storage)),
                    f"{planning_model.smallest_batch(train, most, SHARE):,}",
                ]
            )
    columns = [
        "",
        "cores to decode for a pass",
        "for training everything",
        "devices for the storage, pass",
        "last stage on features",
        f"batch for gradients of {100 * SHARE:.0f} % on {most.devices}",
    ]
    return planning_model.markdown(columns, rows)


def all_tables(figures, given):
    """Return the tables by their names."""
    own, faster = devices_of(figures, given)
    return {
        "machine": machine_table(figures),
        "networks": network_table(figures),
        "disk": disk_table(figures),
        "together": together_table(figures),
        "cuts": cut_table(figures, given),
        "passes": plan_table(own, given, passes),
        "trainings": plan_table(own, given, trainings),
        "faster passes": plan_table(faster, given, passes),
        "faster trainings": plan_table(faster, given, trainings),
        "limits": limit_table((own, faster), given),
    }


def filled(page, tables):
    """Return a page with tables between its comments `<!-- table: NAME -->` and `<!-- end -->`."""
    for name, table in tables.items():
        begin = f"<!-- table: {name} -->"
        pattern = rf"{re.escape(begin)}.*?<!-- end -->"
        page, count = re.subn(
            pattern, lambda _, new=f"{begin}\n\n{table}\n\n<!-- end -->": new, page, flags=re.S
        )
        if count != 1:
            raise ValueError(f"page must have one place {begin!r}. Received: one with {count}")
    return page


def draw(figures, given):
    """Return a figure of the hours that everything takes on 1 to 64 devices, with the bottlenecks."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    counts = [2**power for power in range(7)]
    both = devices_of(figures, given)
    networks = figures["networks"]
    figure = Figure(figsize=(5 * len(networks), 8), layout="constrained")
    axes = figure.subplots(2, len(networks), squeeze=False, sharex=True)
    for row, device in zip(axes, both, strict=True):
        for axis, network in zip(row, networks, strict=True):
            found = [("pass for the head", next(passes(device, network, given))[-1])]
            found += [(name, of) for name, _, of in trainings(device, network, given)]
            for number, (name, of) in enumerate(found):
                estimates = [of(count) for count in counts]
                hours = [estimate.hours for estimate in estimates]
                axis.plot(counts, hours, color=f"C{number}", label=name)
                for count, estimate in zip(counts, estimates, strict=True):
                    marker = MARKERS[estimate.bottleneck]
                    axis.plot(count, estimate.hours, marker, color=f"C{number}", markersize=6)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_xticks(counts, [str(count) for count in counts])
            assumed = (
                "as measured" if device.faster == 1 else f"{device.faster:g} times faster (assumed)"
            )
            axis.set_title(f"{network['name']}, {assumed}", fontsize=10)
            axis.grid(alpha=0.3)
        row[0].set_ylabel("hours")
    for axis in axes[-1]:
        axis.set_xlabel("devices")
    handles, _ = axes[0][0].get_legend_handles_labels()
    keys = [
        Line2D([], [], color="gray", marker=marker, linestyle="", label=name)
        for name, marker in MARKERS.items()
    ]
    columns = 2 * len(networks)
    figure.legend(handles=[*handles, *keys], loc="outside lower center", ncols=columns, fontsize=8)
    return figure


def save(figure, path):
    """Write a figure as a small PNG."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(64).save(path, "PNG", optimize=True)


def main(given):
    """Measure or read the figures, and print, write and draw what follows."""
    if given.figures:
        figures = json.loads(given.figures.read_text(encoding="utf-8"))
    else:
        figures = measured(given)
    if given.output:
        given.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    tables = all_tables(figures, given)
    for name, table in tables.items():
        print(f"\n{name}\n\n{table}")
    if given.write_docs:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")
        save(draw(figures, given), PICTURE)


if __name__ == "__main__":
    main(arguments())
