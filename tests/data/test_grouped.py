"""Samples that belong together: in loaders, in what is divided, by the names of files."""

import copy
import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer._lib.intervals import wilson
from keras_transfer.data import Loader
from keras_transfer.data.grouping import divided, divisible
from keras_transfer.data.series import groups_of, series_in
from keras_transfer.features.compared import paired
from keras_transfer.features.probe import head_choice, linear_fit
from keras_transfer.features.probe.linear_head import cross_validated

Image = pytest.importorskip("PIL.Image")


def images(count):
    return np.zeros((count, 2, 2, 3), "uint8"), np.arange(count) % 2


class TestTheGroupsOfALoader:
    def test_go_with_the_samples(self):
        loader = Loader(images(6), 2, groups=[*"aabbcc"])
        assert loader.subset([5, 0]).groups.tolist() == ["c", "a"]
        for other in (
            loader.replace(seed=3),
            loader.shard(0, 2),
            copy.deepcopy(loader),
            pickle.loads(pickle.dumps(loader)),
        ):
            assert other.groups.tolist() == [*"aabbcc"]
        assert Loader(images(6)).groups is None

    def test_may_be_numbers_texts_or_objects_of_one_kind(self):
        for groups in ([1, 1, 2], np.array([1.5, 1.5, 2]), np.array(["x", "x", "yy"], object)):
            found = Loader(images(3), groups=groups).groups
            assert found.tolist() == [*groups]
            assert found.dtype != object

    @pytest.mark.parametrize(
        ("groups", "received"),
        [
            ([1, 2], r"3 numbers or texts.*shape \(2,\)"),
            (5, r"shape \(\)"),
            ([[1], [2], [3]], r"shape \(3, 1\)"),
            (np.array(["a", None, "b"], object), "none for 1 samples, the first of them 1"),
            ([1.0, np.nan, np.nan], "none for 2 samples, the first of them 1"),
        ],
    )
    def test_must_be_one_a_sample(self, groups, received):
        with pytest.raises(ValueError, match=received):
            Loader(images(3), groups=groups)


def bursts(seed, count=80, classes=4):
    """Return classes and groups of samples: bursts of 1 to 9 photos of one class."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 10, count)
    return np.repeat(rng.integers(classes, size=count), sizes), np.repeat(np.arange(count), sizes)


def imbalance(y, sides):
    """Return by how much the shares of classes and of all on equal sides differ, the mean square."""
    found = []
    for k in range(sides.max() + 1):
        counts = np.append(np.bincount(y[sides == k], minlength=y.max() + 1), (sides == k).sum())
        found.append(counts / np.append(np.bincount(y), len(y)) * (sides.max() + 1) - 1)
    return np.mean(np.square(found))


class TestDivided:
    @pytest.mark.parametrize("shares", [(0.2,) * 5, (0.8, 0.2), (0.5, 0.3, 0.2)])
    def test_groups_stay_whole_and_sides_have_their_shares(self, shares):
        y, groups = bursts(0)
        sides = divided(y, groups, shares, 0)
        assert all(len(set(sides[groups == group])) == 1 for group in set(groups))
        for label in range(4):
            there = np.bincount(sides[y == label], minlength=len(shares)) / (y == label).sum()
            np.testing.assert_allclose(there, shares, atol=0.05)

    def test_they_are_as_even_as_scikit_learn_s(self):
        from sklearn.model_selection import StratifiedGroupKFold

        ours, theirs = [], []
        for seed in range(5):
            y, groups = bursts(seed)
            ours.append(imbalance(y, divided(y, groups, (0.2,) * 5, seed)))
            sides = np.empty(len(y), int)
            folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(y, y, groups)
            for k, (_, held_back) in enumerate(folds):
                sides[held_back] = k
            theirs.append(imbalance(y, sides))
        assert np.mean(ours) < 1.1 * np.mean(theirs) < 0.01

    def test_a_function_of_the_seed_and_not_of_the_names(self):
        y, groups = np.repeat([0, 1], 40), np.repeat(np.arange(20), 4)
        one = divided(y, groups, (0.8, 0.2), 1)
        np.testing.assert_array_equal(one, divided(y, groups + 7, (0.8, 0.2), 1))
        assert (one != divided(y, groups, (0.8, 0.2), 2)).any()

    def test_a_class_of_two_groups_is_on_both_sides(self):
        y, groups = np.array([0] * 20 + [1] * 10), np.array([*range(20), *[20] * 5, *[21] * 5])
        sides = divided(y, groups, (0.9, 0.1), 0)
        assert sides[20] != sides[25]


class TestSplit:
    def test_no_group_is_on_two_sides(self):
        y, groups = bursts(3)
        loader = Loader((np.zeros((len(y), 2, 2, 3), "uint8"), y), groups=groups)
        train, held_back = loader.split(0.25, seed=1)
        assert not {*train.groups} & {*held_back.groups}
        np.testing.assert_allclose(held_back.class_counts() / loader.class_counts(), 0.25, atol=0.05)
        assert train.num_samples + held_back.num_samples == len(y)
        train, held_back = loader.split(0.25, stratify=False)
        assert not {*train.groups} & {*held_back.groups}

    def test_a_class_of_one_group_is_an_error(self):
        loader = Loader(images(6), class_names=["ant", "bee"], groups=[0, 5, 1, 5, 2, 5])
        with pytest.raises(ValueError, match="at least 2 groups.* 1 of class 'bee'"):
            loader.split(0.5)

    def test_groups_that_can_t_be_divided(self):
        y = np.array([0, 1, 0, 2, 1, 2])  # whichever two of three stand together, a class is whole
        loader = Loader((images(6)[0], y), groups=[0, 0, 1, 1, 2, 2])
        with pytest.raises(ValueError, match="no way to divide them"):
            loader.split(0.5)
        with pytest.raises(ValueError, match="no way to divide them"):
            list(linear_fit.fold_indices(y, 2, 0, loader.groups))


class TestFolds:
    def test_no_group_is_in_two(self):
        y, groups = bursts(4)
        seen = []
        for train, test in linear_fit.fold_indices(y, 4, 0, groups):
            assert not {*groups[train]} & {*groups[test]}
            assert {*y[train]} == {*y[test]} == {0, 1, 2, 3}
            seen += [*test]
        assert sorted(seen) == list(range(len(y)))

    def test_there_are_at_most_as_many_as_a_class_has_groups(self):
        y, groups = np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 3, 4, 4, 5])
        assert linear_fit.fold_count(y, 5) == 3
        assert linear_fit.fold_count(y, 5, groups) == 2
        assert divisible(y, groups).tolist() == [4, 2]


def test_errors_are_of_groups():
    gains = np.tile([1.0, 0.0, 0.0, -1.0], 5)
    alone, together = paired(gains), paired(gains, np.arange(20))
    assert alone == pytest.approx(together)
    # Ten photos of each of two objects tell as much as two photos.
    assert paired(np.ones(20), np.repeat([0, 1], 10)) == pytest.approx((1.0, 0.5**0.5))


def telltale(rng, groups=24, size=5):
    """Return images whose group shows in their colours and whose class doesn't, classes, groups."""
    x = np.repeat(rng.integers(0, 256, (groups, 1, 1, 3)), size, axis=0)
    x = np.clip(x + rng.integers(-3, 4, (groups * size, 32, 32, 3)), 0, 255).astype("uint8")
    return x, np.repeat(np.arange(groups) % 2, size), np.repeat(np.arange(groups), size)


def rng_features(groups):
    """Return features that tell groups apart and nothing else."""
    return np.random.default_rng(1).normal(size=(groups.max() + 1, 200))[groups].astype("float32")


@pytest.fixture(scope="module")
def photos():
    return telltale(np.random.default_rng(0))


@pytest.fixture
def colours():
    """A network whose features are 64 waves of the mean colour, and so know each group again."""
    import keras

    image = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 64)(keras.layers.GlobalAveragePooling2D()(image))
    x = keras.layers.Dense(64, "relu", kernel_initializer=keras.initializers.RandomNormal(seed=1))(x)
    return keras.Model(image, keras.layers.Dense(2, "softmax")(x))


class TestWhatIsMeasured:
    """With groups nothing knows the held-back photos again, and reaches no more than chance."""

    def test_by_cross_validation(self, photos, colours):
        x, y, groups = photos
        alone, grouped = (
            kt.features.cross_validate_head(colours, loader, C=10.0, verbose=0).mean
            for loader in (Loader((x, y)), Loader((x, y), groups=groups))
        )
        assert grouped < 0.7 < 0.8 < alone

    def test_by_automatic_training(self, photos, colours):
        x, y, groups = photos
        shared = {"fast": True, "verbose": 0}
        alone, grouped = (
            kt.automatic.train(colours, loader, **shared).scores[0].accuracy
            for loader in (Loader((x, y)), Loader((x, y), groups=groups))
        )
        assert grouped < 0.7 < 0.8 < alone

    @pytest.mark.parametrize("method", ["ridge", "probe"])
    def test_by_ranking(self, method, photos, colours):
        x, y, groups = photos
        alone, grouped = (
            kt.rank_backbones([colours], loader, method=method, verbose=0)[0].probe.mean
            for loader in (Loader((x, y)), Loader((x, y), groups=groups))
        )
        assert grouped < 0.7
        assert alone > 0.8 or method == "probe"
        assert grouped != alone

    def test_by_nested_folds(self, photos):
        _, y, groups = photos
        x, shared = rng_features(groups), ("logistic", None, 4, 0, 0)
        assert cross_validated(x, y, *shared).mean == 1.0
        assert cross_validated(x, y, *shared, groups=groups).mean < 0.7

    def test_and_the_interval_is_that_of_so_many_groups(self, photos, colours):
        x, y, groups = photos
        found = kt.features.cross_validate_head(
            colours, Loader((x, y), groups=groups), C=1.0, method="ridge", verbose=0
        )
        assert found.interval == wilson(found.mean, 24)
        assert str(found).endswith("5 folds of 120 samples in 24 groups)")
        loader = Loader((x, y), groups=groups)
        score = kt.evaluation.evaluate(colours, loader, verbose=0)
        assert score.interval == wilson(score.accuracy, 24)
        assert "on 120 images in 24 groups" in " ".join(str(score).split())
        assert score.error == pytest.approx((score.accuracy * (1 - score.accuracy) / 24) ** 0.5)
        trained = kt.automatic.train(colours, loader, fast=True, verbose=0)
        assert trained.scores[0].interval == wilson(trained.scores[0].accuracy, 24)

    def test_by_a_recipe(self, photos, colours, monkeypatch):
        x, y, groups = photos
        given = []
        monkeypatch.setattr(
            "keras_transfer.runs.automatic.fine_tune", lambda *args, **_: given.extend(args)
        )
        loader = Loader((x, y), groups=groups)
        kt.automatic.follow(colours, loader, [kt.Phase("head", 1)], verbose=0)
        _, train, validation, _ = given
        assert not {*train.groups} & {*validation.groups}
        assert validation.num_samples == 25  # of 120

    def test_where_some_samples_are_compared(self, photos, monkeypatch):
        monkeypatch.setattr(head_choice, "_COMPARED", 40)
        x, y, groups = photos
        some = head_choice._some(y, groups)
        assert 40 <= len(some) < len(y)
        x = rng_features(groups)
        folds = list(linear_fit.fold_indices(y, 4, 0, groups))
        head = head_choice.choose_head(x, y, [x.shape[1]], folds, groups=groups)
        assert head.choice.accuracy < 0.7
        one = np.where(y == 1, 99 + (np.arange(len(y)) == len(y) - 2), groups)  # few of one group
        assert len(head_choice._some(y, one)) == len(y)

    def test_a_run_goes_on_with_the_same_groups_alone(self, photos, colours, tmp_path):
        x, y, groups = photos
        shared = {"fast": True, "checkpoint": tmp_path, "verbose": 0}
        kt.automatic.train(colours, Loader((x, y), groups=groups), **shared)
        with pytest.raises(ValueError, match="groups"):
            kt.automatic.train(colours, Loader((x, y), groups=groups // 2), resume=True, **shared)


class TestEveryFold:
    """All folds and all errors are asked for with groups, whichever way leads to them."""

    @pytest.fixture(autouse=True)
    def asked(self, monkeypatch):
        folds, asked = linear_fit.fold_indices, []

        def spy(y, count, seed, groups=None):
            asked.append(groups is not None and len(groups) == len(y))
            return folds(y, count, seed, groups)

        monkeypatch.setattr(linear_fit, "fold_indices", spy)
        return asked

    def test_of_a_linear_head(self, photos, colours, asked):
        x, y, groups = photos
        loader = Loader((x, y), groups=groups)
        kt.fit_linear_head(colours, loader, method="ridge", verbose=0)
        assert asked == [True]

    def test_within_folds_on_several_depths(self, photos, asked):
        _, y, groups = photos
        x = rng_features(groups)
        cross_validated(x, y, "ridge", None, 2, 0, 0, (100, 100), groups)
        assert asked == [True] * 5  # and for each of two, those of depths and of C

    def test_of_chosen_heads(self, photos, asked, monkeypatch):
        _, y, groups = photos
        x = rng_features(groups)
        folds = list(linear_fit.fold_indices(y, 3, 0, groups))
        monkeypatch.setattr(head_choice, "_COMPARED", 60)
        head_choice.choose_head(x, y, [100, 100], folds, groups=groups)
        assert asked == [True] * 3

    def test_of_automatic_training(self, photos, colours, asked, monkeypatch):
        x, y, groups = photos
        errors = []

        def spy(differences, together=None):
            errors.append(together is not None and len(together) == len(differences))
            return paired(differences, together)

        monkeypatch.setattr("keras_transfer.runs.scoring.paired", spy)
        loader = Loader((x, y), groups=groups)
        plan = kt.automatic.propose(colours, loader, verbose=0)
        last = dataclasses.replace(plan.depths[-1], epochs=1)
        plan = dataclasses.replace(plan, depths=(plan.depths[0], last))
        kt.automatic.train(colours, loader, plan=plan, views=True, verbose=0)
        assert asked == [True] * 3  # heads of both views, and the tries
        assert errors == [True] * 6

    def test_is_handed_on_to_the_choice(self, photos, colours, monkeypatch):
        x, y, groups = photos
        given, choose = [], head_choice.choose_head

        def spy(*args, **options):
            given.append(options.get("groups", args[-1]))
            return choose(*args, **options)

        monkeypatch.setattr(head_choice, "choose_head", spy)
        loader = Loader((x, y), groups=groups)
        kt.automatic.train(colours, loader, fast=True, verbose=0)
        kt.rank_backbones([colours], loader, method="ridge", verbose=0)
        assert [each is loader.groups for each in given] == [True, True]


def test_too_few_groups_for_folds(photos, colours):
    x, y, groups = photos
    one = Loader((x, y), groups=np.where(y, 99, groups))
    for call in (
        lambda: kt.fit_linear_head(colours, one, verbose=0),
        lambda: kt.automatic.train(colours, one, verbose=0),
        lambda: kt.features.cross_validate_head(colours, one, verbose=0),
    ):
        with pytest.raises(ValueError, match="at least . groups.* 1 of class 1"):
            call()


@pytest.mark.parametrize("call", [kt.fit_linear_head, kt.fine_tune])
def test_a_group_in_two_given_parts(call, photos, colours):
    x, y, groups = photos
    train, other = (
        Loader((x[:60], y[:60]), groups=groups[:60]),
        Loader((x[58:], y[58:]), groups=groups[58:]),
    )
    with pytest.raises(ValueError, match=r"must not share a group.* 1 groups .* such as 11"):
        call(colours, train, other, verbose=0)


def paths(names):
    return [Path("photos", name) for name in names]


class TestGroupPattern:
    def test_finds_the_group_in_each_name(self):
        found = groups_of(r"(.*)_\d+\.jpg", paths(["a_1_1.jpg", "a_1_2.jpg", "b_1.jpg"]))
        assert found.tolist() == ["a_1", "a_1", "b"]
        found = groups_of(r"patient(\d+)", paths(["x-patient07.png", "patient08-3.png"]))
        assert found.tolist() == ["07", "08"]

    def test_files_without_are_groups_of_their_own(self, caplog):
        found = groups_of(r"(.*)_\d+\.jpg", paths(["a_1.jpg", "a_2.jpg", "a_1.JPG", "b.jpg"]))
        assert found.tolist() == ["a", "a", "photos/a_1.JPG", "photos/b.jpg"]
        assert "nothing in the names of 2 of 4 files, such as 'a_1.JPG'" in caplog.text

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("(", "must be a regular expression.*missing"),
            (5, "must be a regular expression"),
            (r".*_\d", "must have one part in brackets.* with 0 such parts"),
            (r"(.*)_(\d)", "must have one part in brackets.* with 2 such parts"),
            (r"(.*)-\d+\.jpg", "finds nothing in 'a_1.jpg', nor in any of the other 1"),
            (r"(.)_\d+\.jpg", "finds the same in the name of each of the 2 files, 'a'"),
        ],
    )
    def test_bad_ones(self, pattern, message):
        with pytest.raises(ValueError, match=message):
            groups_of(pattern, paths(["a_1.jpg", "a_2.jpg"]))

    def test_of_a_folder(self, tmp_path, caplog):
        for name in ("ant", "bee"):
            (tmp_path / name).mkdir()
            for number in range(8):
                size = 8 + number  # no two files are equal
                noise = np.random.default_rng(number).integers(0, 256, (size, 9, 3), "uint8")
                Image.fromarray(noise).save(tmp_path / name / f"{name}{number // 2}_{number % 2}.png")
        shared = {"image_size": 8, "verbose": 0}
        loader = kt.data.from_directory(tmp_path, group_pattern=r"(.*)_\d\.png", **shared)
        assert loader.groups.tolist() == [f"{n}{k // 2}" for n in ("ant", "bee") for k in range(8)]
        assert caplog.text == ""
        assert kt.data.from_directory(tmp_path, **shared).groups is None
        assert "16 of 16 files look like series of 8 things, such as 'ant0_0.png'" in caplog.text
        assert r"group_pattern=r'(.*)_\d+\.' keeps them together" in caplog.text


class TestNamesThatLookLikeSeries:
    @pytest.mark.parametrize(
        ("names", "pattern", "things"),
        [
            ([f"IMG_{i:03}_{k}.jpg" for i in range(9) for k in range(3)], r"(.*)_\d+\.", 9),
            ([f"20230105_1430{i:02}_{k:03}.jpg" for i in range(9) for k in (1, 2)], r"(.*)_\d+\.", 9),
            ([f"frog{i}-{k}.jpg" for i in range(7) for k in range(40)], r"(.*)\-\d+\.", 7),
            ([f"sh{c}e ({k}).jpg" for c in "abcdefg" for k in range(3)], r"(.*)\ \(\d+\)?\.", 7),
        ],
    )
    def test_are_told_with_a_pattern_that_fits(self, names, pattern, things):
        found = series_in(paths(names), [0] * len(names))
        assert (found.pattern, found.stems, found.files) == (pattern, things, len(names))
        assert len({*groups_of(pattern, paths(names))}) == things

    @pytest.mark.parametrize(
        "names",
        [
            [f"IMG_{i:04}.jpg" for i in range(200)],
            [f"DSC-{i:03}.jpg" for i in range(200)],
            [f"100_{i:04}.jpg" for i in range(90)] + [f"101_{i:04}.jpg" for i in range(90)],
            [f"heron ({i}).jpg" for i in range(200)],
            [f"2023-{month:02}-{day:02}.jpg" for month in range(1, 9) for day in range(1, 25)],
            [f"IMG_20230105_{i:06}.jpg" for i in range(99)],
            [f"IMG-2023010{day}-WA{i:04}.jpg" for day in range(1, 9) for i in range(9)],
            [f"{i}{i * 7}_{i:010x}_n.jpg" for i in range(100, 200)],
            [f"{where}_{i}.jpg" for where in "abcdef" for i in range(100)],
            [f"IMG_{i:04}.jpg" for i in range(90)] + [f"IMG_{i:04} (1).jpg" for i in range(9)],
            [f"trip_{year}_{i:03}.jpg" for year in range(2015, 2022) for i in range(90)],
            ["a_1.jpg", "a_2.jpg", "b_1.jpg", "b_2.jpg"],
        ],
        ids=lambda names: names[0],
    )
    def test_or_are_not_those_of_single_photos(self, names):
        assert series_in(paths(names), [0] * len(names)) is None

    def test_or_of_classes(self):
        names = [f"{bird}7_{i}.jpg" for bird in "abcdefgh" for i in range(20)]
        assert series_in(paths(names), np.repeat(range(8), 20)) is None
        assert series_in(paths(names), [0] * 160) is not None

    @pytest.mark.real_data
    @pytest.mark.parametrize("name", ["hymenoptera", "flowers", "flowers44"])
    def test_or_of_real_sets(self, name, real_data):
        for part in ("train", "val"):
            files = sorted((real_data / name / part).rglob("*.jpg"))
            classes = sorted({file.parent for file in files})
            assert files
            assert series_in(files, [classes.index(file.parent) for file in files]) is None
