"""What passes over many images cost on several devices, from figures of one; imports no Keras.

A device is what computes one batch at a time, with the cores that read for it. The work on an image has
parts: "compute"; "decode" (or "copy", of features that are there already); "storage", bytes from and to
disks, one's own or those that all devices share; "network", the same bytes through the connection of one
device. What threads read ahead hides behind the longest part; but where a device has no accelerator,
decoding takes turns with computing on the same cores, and what is not read ahead adds up, too. Gradients
travel after each step and are hidden behind nothing, which is the worst case.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MEGA = 1e6


@dataclass(frozen=True)
class Cluster:
    """Devices and what is between them.

    Attributes:
        devices: how many.
        network: MB a second that reach one device, and as many that leave it.
        latency: seconds until a message has arrived.
        storage: MB a second of the storage that several devices share, for all of them together.
        start: seconds until workers compute, where there are several devices.
    """

    devices: int
    network: float
    latency: float
    storage: float
    start: float


@dataclass(frozen=True)
class Work:
    """What is done with an image on one device.

    Attributes:
        compute: images a second.
        prepare: images a second that its cores decode or copy, all of them together.
        kind: what that is: "decode" or "copy".
        apart: whether preparing and computing go on at once: threads prepare, and the device has an
            accelerator.
        ahead: whether bytes come while the device computes.
        read: bytes that are read.
        written: bytes that are written.
        disk_read: MB a second from a disk of the device's own.
        disk_write: MB a second to it.
        gradients: bytes that the devices add up after each step; 0 where each works alone.
    """

    compute: float
    prepare: float
    kind: str
    apart: bool
    ahead: bool = True
    read: float = 0.0
    written: float = 0.0
    disk_read: float = math.inf
    disk_write: float = math.inf
    gradients: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """What some work takes.

    Attributes:
        hours: of all of it.
        rate: images a second of all devices together.
        bottleneck: the part that takes longest.
        parts: seconds of each part, for one image on one device.
    """

    hours: float
    rate: float
    bottleneck: str
    parts: Mapping[str, float]


def all_reduce_seconds(nbytes: float, devices: int, bandwidth: float, latency: float) -> float:
    """Return how long a ring of devices takes to add up gradients, so that each has the sum.

    Each device sends 2 (n - 1) messages of an n-th of the bytes.

    Args:
        nbytes: of the gradients.
        devices: how many; n.
        bandwidth: MB a second of each.
        latency: seconds of a message.
    """
    return 2 * (devices - 1) * (nbytes / devices / (bandwidth * MEGA) + latency)


def image_parts(work: Work, cluster: Cluster) -> dict[str, float]:
    """Return the seconds that each part of the work on an image takes on one device."""
    parts = {"compute": 1 / work.compute, work.kind: 1 / work.prepare}
    if cluster.devices == 1:
        storage = work.read / work.disk_read + work.written / work.disk_write
        return {**parts, "storage": storage / MEGA, "network": 0.0}
    moved = (work.read + work.written) / MEGA
    parts["storage"] = moved * cluster.devices / cluster.storage
    parts["network"] = moved / cluster.network
    return parts


def image_seconds(parts: Mapping[str, float], work: Work) -> float:
    """Return how long one device is busy with an image, parts that go on at once counted once."""
    on_device = (parts["compute"], parts[work.kind])
    busy = max(on_device) if work.apart else sum(on_device)
    moving = max(parts["storage"], parts["network"])
    return max(busy, moving) if work.ahead else busy + moving


def extraction(
    work: Work, cluster: Cluster, images: int, views: int = 1, digest: float = math.inf
) -> Estimate:
    """Estimate one pass of a frozen network, in which devices do not wait for each other.

    Args:
        work: what is done with an image.
        cluster: the devices.
        images: how many.
        views: versions of each.
        digest: files a second that one process reads beforehand, to know the images by.
    """
    parts = image_parts(work, cluster)
    rounds = math.ceil(images * views / cluster.devices)
    seconds = rounds * image_seconds(parts, work) + images / digest + _start(cluster)
    parts["digest"] = images / digest / rounds
    return Estimate(seconds / 3600, images * views / seconds, _longest(parts, work), parts)


def training(work: Work, cluster: Cluster, images: int, epochs: int, batch_size: int) -> Estimate:
    """Estimate data-parallel training, in which all devices wait for the gradients of each step.

    Args:
        work: what is done with an image.
        cluster: the devices.
        images: how many.
        epochs: how many passes.
        batch_size: images of a step on one device.
    """
    parts = image_parts(work, cluster)
    gradients = all_reduce_seconds(work.gradients, cluster.devices, cluster.network, cluster.latency)
    steps = math.ceil(images / (batch_size * cluster.devices))
    step = batch_size * image_seconds(parts, work) + gradients
    seconds = epochs * steps * step + _start(cluster)
    parts["gradients"] = gradients / batch_size
    return Estimate(seconds / 3600, epochs * images / seconds, _longest(parts, work), parts)


def devices_until_storage(work: Work, storage: float) -> float:
    """Return how many devices, computing all the time, move as much as the shared storage can.

    Args:
        work: what is done with an image.
        storage: MB a second of the storage.
    """
    moved = work.read + work.written
    return storage * MEGA / (work.compute * moved) if moved else math.inf


def smallest_batch(work: Work, cluster: Cluster, share: float) -> int:
    """Return the batch of a device from which on gradients take at most a share of computing.

    Args:
        work: what is done with an image.
        cluster: the devices.
        share: of the time that computing takes.
    """
    gradients = all_reduce_seconds(work.gradients, cluster.devices, cluster.network, cluster.latency)
    return max(1, math.ceil(gradients * work.compute / share))


def _start(cluster: Cluster) -> float:
    return cluster.start if cluster.devices > 1 else 0.0


def _longest(parts: Mapping[str, float], work: Work) -> str:
    """Return the part that takes longest; what takes turns on the same cores counts together first."""
    device = max("compute", work.kind, key=parts.__getitem__)
    together = parts[device] if work.apart else parts["compute"] + parts[work.kind]
    others = {name: value for name, value in parts.items() if name not in ("compute", work.kind)}
    whole = {device: together, **others}
    return max(whole, key=whole.__getitem__)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
