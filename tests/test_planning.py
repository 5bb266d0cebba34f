"""The formulas of benchmarks/planning_model.py on figures worked out by hand, and the guide."""

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path

import keras
import pytest

import keras_transfer as kt

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "benchmarks" / "planning.json"


@pytest.fixture
def planning(monkeypatch):
    """Return the script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("planning")


@pytest.fixture
def model(planning):
    """Return the module with the formulas."""
    return planning.planning_model


def cluster(model, devices, *, network=1000.0, latency=0.0, storage=1000.0, start=0.0):
    return model.Cluster(devices, network, latency, storage, start)


def test_gradients_travel_around_a_ring(model):
    # 100 MB at 1,000 MB/s take 0.1 s; of n devices each sends 2 (n - 1) n-ths of them.
    assert model.all_reduce_seconds(100e6, 1, 1000, 0.01) == 0
    assert model.all_reduce_seconds(100e6, 2, 1000, 0) == pytest.approx(0.1)
    assert model.all_reduce_seconds(100e6, 64, 1000, 0) == pytest.approx(2 * 63 / 64 * 0.1)
    assert model.all_reduce_seconds(0, 64, 1000, 1e-3) == pytest.approx(0.126)


def test_decoding_takes_turns_with_computing_on_the_same_cores_only(model):
    work = model.Work(compute=100, prepare=50, kind="decode", apart=False)
    found = model.extraction(work, cluster(model, 1), 3600)
    assert found.hours == pytest.approx(3600 * (0.01 + 0.02) / 3600)
    assert found.rate == pytest.approx(1 / 0.03)
    assert found.bottleneck == "decode"
    apart = model.extraction(replace(work, apart=True), cluster(model, 1), 3600)
    assert apart.rate == pytest.approx(50)
    assert apart.bottleneck == "decode"


def test_what_is_read_ahead_hides_behind_the_longest_part(model):
    # 1 MB read at 100 MB/s and 1 MB written at 50 MB/s: 0.03 s; computing and decoding: 0.02 s.
    work = model.Work(100, 100, "decode", False, True, 1e6, 1e6, disk_read=100, disk_write=50)
    found = model.extraction(work, cluster(model, 1), 100)
    assert found.rate == pytest.approx(1 / 0.03)
    assert found.bottleneck == "storage"
    behind = model.extraction(replace(work, ahead=False), cluster(model, 1), 100)
    assert behind.rate == pytest.approx(1 / 0.05)


def test_devices_share_the_storage_and_not_their_connections(model):
    # 2 MB an image: 0.002 s through each connection, n times 0.002 s of the storage.
    work = model.Work(100, 100, "decode", True, read=1e6, written=1e6)
    found = [model.extraction(work, cluster(model, n), 64_000) for n in (2, 5, 50)]
    assert [each.rate for each in found] == pytest.approx([200, 500, 500])
    assert found[0].bottleneck == "compute"
    assert found[2].bottleneck == "storage"
    assert model.devices_until_storage(work, 1000) == pytest.approx(5)
    assert model.devices_until_storage(replace(work, read=0, written=0), 1000) == math.inf
    narrow = model.extraction(work, cluster(model, 2, network=100), 64_000)
    assert narrow.rate == pytest.approx(2 * 50)
    assert narrow.bottleneck == "network"


def test_a_pass_has_views_a_start_and_a_digest_of_the_files(model):
    work = model.Work(100, 1e9, "decode", True)
    found = model.extraction(work, cluster(model, 10, start=7), 1000, views=3, digest=500)
    assert found.hours * 3600 == pytest.approx(7 + 3000 / 10 / 100 + 1000 / 500)
    assert found.bottleneck == "compute"
    assert model.extraction(work, cluster(model, 10), 1000, digest=500).bottleneck == "digest"
    assert model.extraction(work, cluster(model, 1, start=7), 1000).rate == pytest.approx(100)


def test_a_step_of_training_waits_for_gradients(model):
    # Batches of 10 take 0.1 s; 100 MB among 4 devices 2 * 3 / 4 * 0.1 = 0.15 s. 1,001 images: 26 steps.
    work = model.Work(100, 1e9, "decode", True, gradients=100e6)
    found = model.training(work, cluster(model, 4), 1001, 2, 10)
    assert found.hours * 3600 == pytest.approx(2 * 26 * 0.25)
    assert found.rate == pytest.approx(2 * 1001 / (2 * 26 * 0.25))
    assert found.bottleneck == "gradients"
    larger = model.smallest_batch(work, cluster(model, 4), 0.1)
    assert larger == 150  # which takes 1.5 s to compute
    assert model.training(work, cluster(model, 4), 1001, 2, larger).bottleneck == "compute"
    assert model.smallest_batch(work, cluster(model, 1), 0.1) == 1


@pytest.fixture
def figures():
    return json.loads(FIGURES.read_text(encoding="utf-8"))


def test_features_that_fit_in_memory_are_not_read_from_disk(planning, figures):
    device, _ = planning.devices_of(figures, planning.arguments([]))
    part = figures["networks"][0]["parts"]["head"]
    most = figures["machine"]["memory"] / 2 / planning.nbytes(part["shape"])
    assert device.on_features(part, most - 1).read == 0
    assert device.on_features(part, most + 1).read == 4 * part["shape"][0]
    assert device.on_features(part, most + 1, "bfloat16").read == 0


def test_more_cores_decode_more_and_a_faster_device_computes_more(planning, figures):
    given = planning.arguments(["--cores", "3", "--faster", "7", "--faster-cores", "6"])
    own, faster = planning.devices_of(figures, given)
    part = figures["networks"][0]["parts"]["everything"]
    one, other = own.on_images(part), faster.on_images(part)
    assert one.compute == part["step"]
    assert other.compute == pytest.approx(7 * one.compute)
    assert other.prepare == pytest.approx(2 * one.prepare)
    measured = figures["input"]["standard"]["all threads"] / figures["machine"]["cores"]
    assert one.prepare == pytest.approx(3 * measured)


def test_the_guide_has_the_tables_of_its_figures(planning, figures):
    page = planning.PAGE.read_text(encoding="utf-8")
    tables = planning.all_tables(figures, planning.arguments([]))
    assert planning.filled(page, tables) == page
    with pytest.raises(ValueError, match="must have one place '<!-- table: machine -->'"):
        planning.filled("", tables)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "0.01"), (1.234, "1.23"), (123.4, "123"), (12345.0, "12,300"), (0, "0")]
)
def test_numbers_have_three_digits(planning, value, text):
    assert planning.three_digits(value) == text


def test_a_small_network_is_measured(planning, monkeypatch, tmp_path):
    pytest.importorskip("PIL.Image")
    measure = importlib.import_module("planning_measure")
    classifier = kt.classifier

    def small(name, classes, input_shape, weights):
        inputs = x = keras.Input(input_shape)
        for block in (1, 2):
            x = keras.layers.Conv2D(4, 3, 2, activation="relu", name=f"block{block}_conv")(x)
        return classifier(keras.Model(inputs, x, name=name), classes)

    monkeypatch.setattr(kt, "classifier", small)
    for name, value in {"SIZE": 16, "CLASSES": 3, "LONGEST": 40, "SHARD": 512}.items():
        monkeypatch.setattr(measure, name, value)
    monkeypatch.delenv("KERAS_TRANSFER_REAL_DATA", raising=False)
    monkeypatch.setattr(planning, "QUICK", (0.0, 1000, 4))
    options = ["--backbones", "small", "--batch-size", "2", "--quick"]
    options += ["--backend", keras.backend.backend(), "--directory", str(tmp_path)]
    found = planning.measured(planning.arguments(options))
    assert found["photos"]["width"] == 40
    part = found["networks"][0]["parts"]["last stage"]
    assert (part["cut"], part["shape"]) == ("block1_conv", [7, 7, 4])
    assert part["gradients"] == 4 * (4 * 4 * 9 + 4 + 4 * 3 + 3)
    assert found["networks"][0]["together"]["images"] == 4
    assert all(value > 0 for value in [part["step"], *part["forward"].values()])
    tables = planning.all_tables(found, planning.arguments([]))
    assert "| small, last stage | `block1_conv` |" in tables["networks"]
