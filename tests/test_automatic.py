"""Automatic training: what is tried, what is taken, and that nothing is chosen on other images."""

import contextlib
from dataclasses import replace

import keras
import numpy as np
import pytest
from automatics import assert_equal, classifier, colours, plan_of, stripes, values
from mappings import watch_folders

import keras_transfer as kt
from keras_transfer.runs import automatic, linear, scoring, search, stage
from keras_transfer.runs.automatic import EVERYTHING, LAST_GROUP, LINEAR, MIRRORED

pytest.importorskip("sklearn")


class TestPropose:
    def test_few_images_have_the_last_group_tried_and_everything(self):
        plan = automatic.propose(classifier(), colours(), verbose=0)
        assert [depth.name for depth in plan.depths] == [LINEAR, LAST_GROUP, EVERYTHING]
        assert plan.depths[1].at == "block1_conv"
        assert "few" in str(plan)

    def test_many_images_have_everything_tried(self):
        plan = automatic.propose(classifier(), colours(400), verbose=0)
        assert [depth.name for depth in plan.depths] == [LINEAR, EVERYTHING]
        # No range test: from a ridge head on many features it finds a rate at which nothing trains.
        assert (plan.depths[1].learning_rate, plan.depths[1].find) == (2e-4, False)

    def test_the_model_stays(self):
        model = classifier()
        before = values(model)
        automatic.propose(model, colours(), verbose=0)
        assert_equal(values(model), before)


class TestTrain:
    def test_a_class_that_weighs_more_is_said_more_often(self):
        x, y = colours(count=40, noise=250)
        said = []
        for class_weight in ({"one": 50.0}, None, {1: 50.0}):
            model = classifier()
            found = automatic.train(model, (x, y), class_weight=class_weight, verbose=0)
            assert found.chosen == LINEAR
            said.append(int(model.predict(x, verbose=0).argmax(axis=1).sum()))
        assert said[0] < said[1] < said[2]
        with pytest.raises(ValueError, match=r"'on' is none; did you mean one"):
            automatic.train(classifier(), (x, y), class_weight={"on": 2.0}, verbose=0)

    def test_several_labels_an_image_are_refused(self):
        x, _ = colours(count=8)
        for call in (automatic.train, automatic.propose, kt.advise, kt.fit_linear_head):
            with pytest.raises(ValueError, match=r"must have one class an image"):
                call(classifier(), (x, np.ones((8, 2))), verbose=0)
        with pytest.raises(ValueError, match=r"must have one class an image"):
            automatic.follow(classifier(), (x, np.ones((8, 2))), [kt.Phase("head", 1)], verbose=0)

    def test_a_linear_head_is_taken_where_nothing_is_gained(self):
        model, data = classifier(), colours()
        frozen = values(model)[:4]
        trained = automatic.train(model, data, plan=plan_of(model, data), verbose=0)
        assert trained.chosen == LINEAR
        assert trained.fine_tuning is None
        assert [score.name for score in trained.scores] == [LINEAR, LAST_GROUP]
        assert trained.scores[0].accuracy == 1.0
        assert_equal(values(model)[:4], frozen)
        x, y = colours(seed=1)
        assert (model.predict(x, verbose=0).argmax(axis=1) == y).mean() == 1.0

    @pytest.mark.parametrize("name", [LAST_GROUP, EVERYTHING])
    def test_what_is_better_beyond_chance_is_taken(self, name):
        model, data = classifier(), stripes()
        plan = plan_of(model, data, name, epochs=30)
        trained = automatic.train(model, data, plan=plan, augmentation=None, verbose=0)
        linear, deeper = trained.scores
        assert linear.accuracy < 0.8
        assert deeper.accuracy > 0.9
        assert deeper.samples == 40  # one of three folds
        assert deeper.gain > 2 * deeper.error > 0
        assert trained.chosen == name
        assert trained.fine_tuning is not None
        x, y = stripes(seed=1)
        assert (model.predict(x, verbose=0).argmax(axis=1) == y).mean() > 0.9
        # Behind the cut, or everywhere, layers have trained; before it none has.
        moved = not np.array_equal(values(model)[0], values(classifier())[0])
        assert moved == (name == EVERYTHING)

    @pytest.mark.parametrize("fails", [False, True])
    def test_no_file_is_mapped_when_its_folder_goes(self, fails, monkeypatch):
        model, data = classifier(), colours()
        plan, folders = plan_of(model, data), watch_folders(monkeypatch)
        if fails:
            monkeypatch.setattr(stage, "fine_tune", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
            automatic.train(model, data, plan=plan, verbose=0)
        assert folders == [[]]

    def test_the_same_seed_gives_the_same_model(self):
        found = []
        for _ in range(2):
            keras.utils.clear_session(free_memory=False)
            model, data = classifier(), stripes(60)
            plan = plan_of(model, data, epochs=4)
            found.append((automatic.train(model, data, plan=plan, seed=3, verbose=0), values(model)))
        assert found[0][0].scores == found[1][0].scores
        assert_equal(found[0][1], found[1][1])

    def test_probabilities_are_calibrated_on_what_was_held_back(self):
        model, data = classifier(), stripes(90)
        trained = automatic.train(model, data, plan=plan_of(model, data), verbose=0)
        assert trained.calibration == kt.calibration.of(model)
        assert trained.calibration.samples == (90 if trained.chosen == LINEAR else 30)

    @pytest.mark.parametrize("share", [0.25, 1.0])
    def test_weights_are_averaged_with_those_before(self, share, monkeypatch):
        model, data = classifier(), stripes(60)
        plan = plan_of(model, data, EVERYTHING, epochs=2)
        monkeypatch.setattr(search, "is_better", lambda score: True)
        monkeypatch.setattr(stage, "_SHARES", (share,))
        trains, moved = stage.Stage.train, []

        def watched(self, *arguments):
            before = values(self._tail)
            trains(self, *arguments)
            moved[:] = before, values(self._tail)

        monkeypatch.setattr(stage.Stage, "train", watched)
        trained = automatic.train(model, data, plan=plan, verbose=0)
        assert trained.chosen == EVERYTHING
        assert trained.scores[1].share == share
        # The temperature is divided out of the head.
        for found, before, after in zip(values(model)[:-2], *(each[:-2] for each in moved), strict=True):
            np.testing.assert_allclose(found, before + share * (after - before), rtol=1e-5, atol=1e-6)

    def test_the_share_is_the_best_on_what_was_held_back(self, monkeypatch):
        model, data = classifier(), stripes()
        plan = plan_of(model, data, LAST_GROUP, epochs=30)
        found = automatic.train(model, data, plan=plan, augmentation=None, verbose=0).scores[1]
        scores = []
        for share in stage._SHARES:
            monkeypatch.setattr(stage, "_SHARES", (share,))
            keras.utils.clear_session(free_memory=False)
            model = classifier()
            trained = automatic.train(model, data, plan=plan, augmentation=None, verbose=0)
            scores.append(trained.scores[1].accuracy)
        assert found.accuracy == max(scores)

    def test_fast_is_the_linear_head_alone(self, monkeypatch):
        monkeypatch.setattr(stage, "fine_tune", lambda *args, **options: 1 / 0)
        model, data = classifier(), colours()
        trained = automatic.train(model, data, fast=True, verbose=0)
        assert [score.name for score in trained.scores] == [LINEAR]

    @pytest.mark.parametrize(("minutes", "names"), [(1e-3, [LINEAR]), (60, [LINEAR, LAST_GROUP])])
    def test_what_does_not_fit_into_the_time_is_left_out(self, minutes, names):
        model, data = classifier(), colours()
        frozen = values(model)[:4]
        trained = automatic.train(model, data, plan=plan_of(model, data), minutes=minutes, verbose=0)
        assert [score.name for score in trained.scores] == names
        assert [each.name for each in trained.left_out] == [LAST_GROUP][: 2 - len(names)]
        assert all(each.seconds > 60 * minutes for each in trained.left_out)
        assert_equal(values(model)[:4], frozen)  # though its first batches were timed

    def test_what_is_timed_is_then_tried_from_the_start(self):
        found = []
        for minutes in (None, 60):
            keras.utils.clear_session(free_memory=False)
            model, data = classifier(), stripes(60)
            plan = plan_of(model, data, epochs=4)
            trained = automatic.train(model, data, plan=plan, minutes=minutes, verbose=0)
            found.append((trained.scores, values(model)))
        assert found[0][0] == found[1][0]
        assert_equal(found[0][1], found[1][1])

    def test_bad_minutes(self):
        for minutes in (0, -1, "ten"):
            with pytest.raises((TypeError, ValueError), match="minutes must be"):
                automatic.train(classifier(), colours(), minutes=minutes, verbose=0)

    def test_as_many_right_with_higher_probabilities_is_better(self):
        y, margins = np.arange(40) % 2, np.linspace(0.1, 1.0, 40)
        margins[:4] = -0.2  # of the right class before the other
        linear, sharper = (
            np.stack([np.where(y == 0, each, 0.0), np.where(y == 1, each, 0.0)], axis=1)
            for each in (margins, np.where(margins > 0, 1.0, margins))
        )
        everyone = np.arange(40)
        right = scoring.score_of(LAST_GROUP, everyone, sharper, linear, y)
        assert (right.accuracy, right.gain) == (0.9, 0.0)
        assert scoring.is_better(right)
        assert not scoring.is_better(replace(right, gain=-0.025, error=0.025))
        same = scoring.score_of(LAST_GROUP, everyone, 3 * linear, linear, y)  # only another temperature
        assert abs(same.loss_gain) < 1e-3
        assert not scoring.is_better(same)

    def test_what_changes_nothing_is_not_better(self):
        """Of a head that fits all training images the loss is 0, and nothing learns from it."""
        same = automatic.DepthScore(LAST_GROUP, 0.9, 0.0, 0.0, 348, 1.0, 1e-8, 1e-9)
        assert not scoring.is_better(same)
        assert scoring.is_better(replace(same, loss_gain=0.01, loss_error=0.004))

    def test_an_earlier_calibration_counts_no_more(self):
        found = []
        for before in (None, kt.calibration.Calibration(5.0, 0.2, 0.9, 500)):
            model, data = classifier(), colours()
            if before is not None:
                kt.calibration.attach_calibration(model, before)
            plan = plan_of(model, data)
            found.append(automatic.train(model, data, plan=plan, verbose=0).calibration)
        assert found[0] == found[1]

    def test_a_range_test_finds_the_rate_once(self, monkeypatch):
        from keras_transfer.training import engine as module

        asked = []
        find = module.find_lr
        monkeypatch.setattr(module, "find_lr", lambda *a, **k: asked.append(a) or find(*a, **k))
        model, data = classifier(), stripes(60)
        plan = plan_of(model, data, epochs=2, find=True)
        automatic.train(model, data, plan=plan, verbose=0)
        assert len(asked) == 1

    def test_where_a_range_test_finds_none_the_plan_has_one(self, monkeypatch):
        from keras_transfer.training import engine as module

        def nothing(*arguments, **options):
            raise ValueError("the loss must fall")

        monkeypatch.setattr(module, "find_lr", nothing)
        model, data = classifier(), stripes(60)
        plan = plan_of(model, data, epochs=2, find=True)
        trained = automatic.train(model, data, plan=plan, verbose=0)
        assert len(trained.scores) == 2

    def test_what_trains_is_as_before(self):
        model, data = classifier(), colours()
        kt.freeze_backbone(model)
        before = [layer.trainable for layer in model.layers]
        automatic.train(model, data, plan=plan_of(model, data, epochs=2), verbose=0)
        assert [layer.trainable for layer in model.layers] == before

    def test_an_error_leaves_the_model(self, monkeypatch):
        model, data = classifier(), colours()
        plan = plan_of(model, data)
        before = values(model)

        def broken(*arguments, **options):
            raise RuntimeError("the disk is gone")

        monkeypatch.setattr(stage, "fine_tune", broken)
        with pytest.raises(RuntimeError, match="the disk is gone"):
            automatic.train(model, data, plan=plan, verbose=0)
        assert_equal(values(model), before)

    def test_its_account_is_plain_data(self):
        import json

        model, data = classifier(), colours()
        trained = automatic.train(model, data, plan=plan_of(model, data, epochs=2), verbose=0)
        account = json.loads(json.dumps(trained.to_dict()))
        assert account["chosen"] == LINEAR
        assert account["scores"][0]["samples"] == 40
        linear = account["linear"]
        assert (linear["depths"], linear["of"]) == (1, 1)
        assert linear["accuracies"][f"{linear['C']:g}"] == trained.scores[0].accuracy


class TestMirrorImages:
    """With them the model that comes back has two views of each image."""

    @pytest.fixture
    def taken(self, monkeypatch):
        monkeypatch.setattr(linear, "is_better", lambda score: True)

    @pytest.mark.usefixtures("taken", "quick_pictures")
    def test_are_views_of_the_model_where_they_are_taken(self, tmp_path):
        model, data = classifier(), colours()
        trained = automatic.train(model, data, views=True, fast=True, verbose=0)
        assert trained.chosen == MIRRORED
        assert [score.name for score in trained.scores] == [LINEAR, MIRRORED]
        x, y = colours(seed=1)
        found = trained.model.predict(x, verbose=0)
        np.testing.assert_allclose(trained.model.predict(x[:, :, ::-1], verbose=0), found, atol=1e-5)
        assert (found.argmax(axis=1) == y).all()
        assert kt.calibration.of(trained.model) == trained.calibration
        assert kt.class_names(trained.model) == ["one", "two"]
        page = kt.report(trained, (x, y), tmp_path / "report.html").read_text("utf-8")
        assert "a prediction takes 2 passes" in page

    @pytest.mark.usefixtures("taken")
    @pytest.mark.parametrize("name", [LAST_GROUP, EVERYTHING])
    def test_count_where_deeper_training_is_tried(self, name, monkeypatch):
        """What is tried is the mean of the logits of both; held-back images have no other."""
        monkeypatch.setattr(search, "is_better", lambda score: True)
        model, data = classifier(), stripes()
        plan, differ = plan_of(model, data, name, epochs=30), []
        gives = stage.Stage.logits

        def watched(self, samples):
            given = gives(self, samples)
            x = data[0][samples]
            logits = keras.Model(model.inputs, model.get_layer("predictions").output)
            views = [logits.predict(each, verbose=0) for each in (x, x[:, :, ::-1])]
            differ.append(np.abs(views[0] - views[1]).max())
            np.testing.assert_allclose(given, np.mean(views, axis=0), rtol=1e-5, atol=1e-5)
            return given

        monkeypatch.setattr(stage.Stage, "logits", watched)
        trained = automatic.train(model, data, plan=plan, views=True, augmentation=None, verbose=0)
        assert len(differ) == len(stage._SHARES)
        assert max(differ) > 1e-3  # a hundred times what they may be off
        assert trained.chosen == name
        x, _ = stripes(seed=1)
        mirrored = trained.model.predict(x[:, :, ::-1], verbose=0)
        np.testing.assert_allclose(trained.model.predict(x, verbose=0), mirrored, atol=1e-5)

    def test_are_not_taken_where_nothing_is_gained(self):
        model, data = classifier(), colours()
        trained = automatic.train(model, data, views=True, fast=True, verbose=0)
        assert trained.model is model
        assert trained.chosen == LINEAR
        assert trained.scores[1].gain == 0

    def test_the_head_is_fitted_to_the_mean_of_both(self, taken):
        """As `fit_linear_head` fits it to a model of two views."""
        x, y = colours(noise=250)
        trained = automatic.train(classifier(), (x, y), views=True, fast=True, verbose=0)
        C = trained.linear.C
        views = kt.multi_view(classifier())
        fitted = kt.fit_linear_head(views, (x, y), method="ridge", C=C, verbose=0)
        kernels = [each.get_layer("predictions").kernel for each in (trained.model, fitted)]
        one, other = (keras.ops.convert_to_numpy(each) for each in kernels)
        one, other = (each / np.linalg.norm(each) for each in (one, other))  # but for temperatures
        np.testing.assert_allclose(one, other, atol=1e-5)

    def test_of_a_model_that_has_them(self):
        model, data = kt.multi_view(classifier()), colours()
        plan = plan_of(model, data, EVERYTHING, epochs=2)
        trained = automatic.train(model, data, plan=plan, verbose=0)
        assert [score.name for score in trained.scores] == [LINEAR, EVERYTHING]
        assert trained.model is model
        with pytest.raises(ValueError, match="must not have several views already"):
            automatic.train(model, data, views=True, verbose=0)

    def test_are_left_out_without_time_for_a_pass(self, monkeypatch):
        from keras_transfer.runs.budget import Budget

        some = Budget(1e-4)
        trained = automatic.train(
            classifier(), colours(), views=True, fast=True, minutes=some, verbose=0
        )
        assert [each.name for each in trained.left_out] == [MIRRORED]


class TestFewImages:
    @pytest.mark.parametrize(("per_class", "folds"), [(2, 2), (3, 3), (4, 3)])
    def test_have_as_many_folds_as_a_class_has_images(self, per_class, folds):
        model, data = classifier(), colours(2 * per_class)
        plan = automatic.propose(model, data, verbose=0)
        assert plan.folds == folds
        trained = automatic.train(model, data, plan=plan, verbose=0)
        assert trained.scores[0].samples == 2 * per_class
        low, high = trained.to_dict()["scores"][0]["interval"]
        assert low < trained.scores[0].accuracy <= high
        assert low < 0.7  # though all are right

    @pytest.mark.parametrize(("right", "sure"), [(2, False), (4, False), (5, True)])
    def test_that_all_gain_is_chance_where_they_are_few(self, right, sure):
        """McNemar's test: of two that differ both are for the deeper one every fourth time."""
        y = np.zeros(right, int)
        linear, deeper = np.tile([0.0, 1.0], (right, 1)), np.tile([1.0, 0.0], (right, 1))
        score = scoring.score_of(LAST_GROUP, np.arange(right), deeper, linear, y)
        assert (score.gain, score.error) == (1.0, pytest.approx(right**-0.5))
        assert (score.gain > scoring.SURE * score.error) == sure

    def test_a_plan_of_other_images_is_kept_to_what_there_is(self):
        model, data = classifier(), colours(4)
        plan = replace(automatic.propose(model, colours(), verbose=0), folds=5)
        assert automatic.train(model, data, plan=plan, verbose=0).scores[0].samples == 4

    def test_follow_has_one_of_each_class_to_choose_by(self):
        trained = automatic.follow(classifier(), colours(4), [kt.Phase("head", 1)], verbose=0)
        assert trained.calibration.samples == 2

    def test_of_one_image_nothing_can_be_held_back(self):
        x, y = colours(7)
        y[:] = 0
        y[3] = 1
        model = classifier()
        before = values(model)
        message = (
            r"each class must have at least 2 samples, of which some are held back.*; add some\. "
            r"Received: data with 1 of class 'two'"
        )
        for start in (
            lambda: automatic.propose(model, (x, y), verbose=0),
            lambda: automatic.train(model, (x, y), verbose=0),
            lambda: automatic.follow(model, (x, y), [kt.Phase("head", 1)], verbose=0),
        ):
            with pytest.raises(ValueError, match=message):
                start()
        assert_equal(values(model), before)


class TestFollow:
    def test_the_best_epoch_on_a_fifth_is_kept(self):
        model = classifier()
        trained = automatic.follow(model, colours(100), [kt.Phase("head", 3)], verbose=0)
        assert trained.chosen == "phases"
        assert trained.fine_tuning.best is not None
        assert trained.calibration.samples == 20
        assert len(trained.fine_tuning.history["val_accuracy"]) == 3


class TestBadInput:
    def test_a_head_of_several_layers(self):
        model = kt.classifier("mobilenet", 2, image_size=32, weights=None, hidden_units=(4,))
        with pytest.raises(ValueError, match=r"head must have one layer .* Received"):
            automatic.train(model, (np.zeros((4, 32, 32, 3)), np.arange(4) % 2), verbose=0)

    def test_other_data(self):
        with pytest.raises(TypeError, match=r"data must be \(x, y\) arrays, a kt.Loader"):
            automatic.train(classifier(), iter([]), verbose=0)

    def test_a_class_without_images(self):
        x, _ = colours()
        with pytest.raises(ValueError, match="class"):
            automatic.train(classifier(), (x, np.zeros(len(x), int)), verbose=0)
