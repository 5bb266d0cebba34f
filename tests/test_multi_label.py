"""Several labels an image: data, models and training, against plain Keras."""

import json

import keras
import numpy as np
import pytest
from tiny import smooth_backbone, tiny_backbone, variables

import keras_transfer as kt
from keras_transfer.features.probe import linear_fit
from keras_transfer.layers import carried
from keras_transfer.layers.task import task_of
from keras_transfer.probabilities.calibration import calibrate_by_logits
from keras_transfer.probabilities.thresholds import attach_thresholds
from keras_transfer.tasks.multi_label import MULTI_LABEL
from keras_transfer.tasks.single_label import SINGLE_LABEL

HEAD, ALL = kt.Phase("head", 2, learning_rate=1e-2), kt.Phase("all", 1, train="all")


def bright(samples=48, seed=0):
    """Noise that is bright in any of three colours, or in none."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 100, (samples, 16, 16, 3), dtype="uint8")
    rows = (np.arange(samples)[:, None] >> np.arange(3) & 1).astype("int32")
    return images + (100 * rows[:, None, None]).astype("uint8"), rows


def sigmoids(backbone=tiny_backbone, seed=0):
    return kt.classifier(backbone(), 3, task="multi-label", seed=seed)


class TestLoader:
    def test_batches_have_rows(self):
        x, y = bright()
        loader = kt.Loader((x, y), 16, multi_label=True, seed=1)
        assert (loader.num_classes, loader.task.name) == (3, "multi-label")
        labels = np.concatenate([rows for _, rows in loader])
        assert labels.dtype == np.float32
        np.testing.assert_array_equal(labels, y[loader.order(0)])
        np.testing.assert_array_equal(loader.class_counts(), y.sum(axis=0))
        assert kt.Loader((x, y[:, 0])).task.name == "single-label"

    def test_others_made_of_it_know_it(self):
        loader = kt.Loader(bright(), 16, multi_label=True)
        others = [loader.replace(seed=3), loader.subset([0, 1]), *loader.split(0.25), loader.shard(0, 2)]
        assert all(other.multi_label for other in others)

    def test_a_split_has_its_share_of_each_class(self):
        rows = np.random.default_rng(0).random((200, 4)) < [0.5, 0.3, 0.1, 0.05]
        loader = kt.Loader((np.zeros((200, 2, 2, 3), "uint8"), rows.astype(int)), multi_label=True)
        kept, held_back = loader.split(0.25, seed=2)
        assert abs(held_back.num_samples - 50) <= 2
        assert (abs(held_back.class_counts() - 0.25 * rows.sum(axis=0)) <= 1).all()
        np.testing.assert_array_equal(loader.split(0.25, seed=2)[1].labels, held_back.labels)
        assert not np.array_equal(loader.split(0.25, seed=3)[1].labels, held_back.labels)
        assert kept.num_samples + held_back.num_samples == 200

    def test_groups_stay_whole(self):
        x, rows = bright()
        loader = kt.Loader((x, rows), multi_label=True, groups=np.arange(48) // 3)
        kept, held_back = loader.split(0.25)
        assert not {*kept.groups} & {*held_back.groups}
        assert (held_back.class_counts() > 3).all()
        assert held_back.num_samples == 12
        places = np.arange(48)[:, None]
        for train, test in linear_fit.fold_rows(places, rows, 4, 0, loader.groups):
            assert not {*(train[0][:, 0] // 3)} & {*(test[0][:, 0] // 3)}

    def test_balanced_sampling_is_of_one_class(self):
        with pytest.raises(ValueError, match="sampling must be None where an image may have several"):
            kt.Loader(bright(), multi_label=True, sampling="balanced")

    def test_a_class_on_one_side_alone(self):
        x, rows = bright()
        rows[:] = rows * [1, 1, 0]
        rows[5, 2] = 1
        loader = kt.Loader((x, rows), multi_label=True, class_names=["a", "b", "c"])
        with pytest.raises(ValueError, match=r"samples of every class.*class 'c' has 1\. Received: fra"):
            loader.split(0.25)
        assert loader.split(0.25, stratify=False)[1].num_samples == 12

    @pytest.mark.parametrize(
        ("labels", "options", "message"),
        [
            (np.arange(4) % 2, {}, r"row of 0 and 1 for each image.*Received: labels of shape \(4,\)"),
            (
                np.full((4, 2), 0.5),
                {},
                r"rows of 0 and 1.*Received: \[0\.5 0\.5\] for sample 0, one of 4",
            ),
            (np.ones((4, 2), int), {"num_classes": 3}, r"rows of 3 numbers.*shape \(4, 2\)"),
            (np.ones((4, 2), int), {"class_names": ["a"]}, r"rows of 1 numbers.*shape \(4, 2\)"),
        ],
    )
    def test_labels_that_are_none(self, labels, options, message):
        with pytest.raises(ValueError, match=message):
            kt.Loader((np.zeros((4, 2, 2, 3), "uint8"), labels), multi_label=True, **options)

    def test_labels_that_come_with_their_images(self):
        image = np.zeros((2, 2, 3), "uint8")
        pairs = [(image, np.array([0, 1])), (image, np.array([2, 0]))]
        loader = kt.Loader(pairs, num_classes=2, multi_label=True, num_threads=0)
        with pytest.raises(ValueError, match=r"the labels of image 1 must have rows of 0 and 1"):
            list(loader)
        with pytest.raises(ValueError, match=r"num_classes or class_names.*multi_label=True"):
            kt.Loader(pairs, multi_label=True)


class TestModels:
    def test_it_ends_in_a_sigmoid_for_each_class(self):
        model = sigmoids()
        assert model.layers[-1].name == "sigmoid"
        assert task_of(model) is MULTI_LABEL
        assert task_of(kt.classifier(tiny_backbone(), 3)) is SINGLE_LABEL
        one = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, "sigmoid")])
        assert task_of(one) is SINGLE_LABEL
        assert (
            task_of(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "sigmoid")]))
            is MULTI_LABEL
        )

    def test_a_new_head_keeps_it_or_changes_it(self):
        model = sigmoids()
        assert task_of(kt.replace_head(model, 5)) is MULTI_LABEL
        assert task_of(kt.replace_head(model, 5, task="single-label")) is SINGLE_LABEL
        softmax = kt.classifier(tiny_backbone(), 3)
        assert task_of(kt.replace_head(softmax, 5)) is SINGLE_LABEL
        assert task_of(kt.replace_head(softmax, 5, task="multi-label")) is MULTI_LABEL

    def test_a_file_tells_it_in_stock_keras(self, tmp_path):
        model = sigmoids()
        kt.fine_tune(model, bright(), phases=[HEAD], verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert task_of(loaded) is MULTI_LABEL
        assert type(loaded.loss) is keras.losses.BinaryCrossentropy
        x, y = bright()
        assert loaded.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0))


@pytest.mark.parametrize("cache", [False, True])
def test_it_trains_as_plain_keras_does(cache):
    """The same losses and weights, with the frozen part computed once and without."""
    x, y = bright()
    keras.utils.set_random_seed(0)
    ours, plain = sigmoids(smooth_backbone), sigmoids(smooth_backbone)
    plain.set_weights(ours.get_weights())
    loader = kt.Loader((x, y), 16, multi_label=True, seed=5)
    validation = bright(24, seed=1)
    phase = kt.Phase("head", 2, optimizer=keras.optimizers.SGD(0.5))
    result = kt.fine_tune(ours, loader, validation, [phase], cache=cache, verbose=0)
    kt.freeze_backbone(plain)
    plain.compile(keras.optimizers.SGD(0.5), "binary_crossentropy", metrics=["binary_accuracy"])
    history = plain.fit(loader.replace(), validation_data=validation, epochs=2, verbose=0).history
    assert set(result.history) == {*history, "learning_rate"} or set(history) <= set(result.history)
    for name, values in history.items():
        np.testing.assert_allclose(result.history[name], values, rtol=2e-4)
    for one, other in zip(variables(ours), variables(plain), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_a_run_that_was_stopped_goes_on(tmp_path):
    data = kt.Loader(bright(), 16, multi_label=True)
    found = []
    for stopped in (False, True):
        keras.utils.set_random_seed(0)
        model, folder = sigmoids(), tmp_path / str(stopped)
        if stopped:
            stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: 1 // (1 - epoch))
            with pytest.raises(ZeroDivisionError):
                kt.fine_tune(model, data, None, [HEAD, ALL], output=folder, callbacks=[stop], verbose=0)
        run = {"output": folder, "resume": stopped, "verbose": 0}
        callbacks = [keras.callbacks.LambdaCallback()]
        kt.fine_tune(model, data, None, [HEAD, ALL], callbacks=callbacks, **run)
        found.append(variables(model))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_mixed_images_have_mixed_rows():
    data = kt.Loader(bright(), 16, multi_label=True, augmentation=kt.data.Compose(mix=kt.data.mixup))
    result = kt.fine_tune(sigmoids(), data, bright(24), [HEAD], verbose=0)
    assert np.isfinite(result.history["val_loss"]).all()


def test_accuracy_is_that_of_each_label():
    """Keras would take it for that of the largest output."""
    model, (x, y) = sigmoids(), bright()
    result = kt.fine_tune(model, (x, y), phases=[HEAD], metrics=["accuracy"], verbose=0)
    found = model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    assert found == pytest.approx(((model.predict(x, verbose=0) > 0.5) == y).mean(), rel=1e-5)
    assert 0.0 <= result.history["accuracy"][0] <= 1.0


def test_metrics_are_of_probabilities():
    model, (x, y) = sigmoids(), bright()
    area = keras.metrics.AUC(multi_label=True, num_labels=3, name="auc")
    kt.fine_tune(model, (x, y), phases=[kt.Phase("head", 1)], metrics=[area], verbose=0)
    found = model.evaluate(x, y, verbose=0, return_dict=True)["auc"]
    area.reset_state()
    area.update_state(y, model.predict(x, verbose=0))
    assert found == pytest.approx(float(area.result()), rel=1e-4)


class TestThresholds:
    def test_they_travel_in_the_file(self, tmp_path):
        model, data = sigmoids(), bright()
        found = kt.calibration.find_thresholds(model, data, verbose=0)
        assert len(found.values) == 3
        assert found.samples == 48
        model.save(tmp_path / "model.keras")
        assert kt.calibration.thresholds_of(tmp_path / "model.keras") == found
        loaded = kt.load_model(tmp_path / "model.keras")
        assert kt.calibration.thresholds_of(loaded) == found
        evaluation = kt.evaluation.evaluate(loaded, data, verbose=0)
        assert [each.threshold for each in evaluation.classes] == list(found.values)
        assert evaluation.macro_f1 >= kt.evaluation.evaluate(sigmoids(), data, verbose=0).macro_f1
        for other in (kt.replace_head(loaded, 3), carried.hand_on(loaded, sigmoids())):
            assert kt.calibration.thresholds_of(other) is None

    def test_training_forgets_them(self):
        model = sigmoids()
        kt.calibration.find_thresholds(model, bright(), verbose=0)
        kt.fine_tune(model, bright(), phases=[HEAD], verbose=0)
        assert kt.calibration.thresholds_of(model) is None
        kt.calibration.find_thresholds(model, bright(), verbose=0)
        model.fit(*bright(), verbose=0)
        assert kt.calibration.thresholds_of(model) is None

    def test_of_a_softmax_are_none(self):
        model = kt.classifier(tiny_backbone(), 3)
        with pytest.raises(
            ValueError, match=r"sigmoid for each of several classes.*most probable class is said"
        ):
            kt.calibration.find_thresholds(model, bright(), verbose=0)

    def test_that_do_not_fit(self):
        model = sigmoids()
        attach_thresholds(model, kt.calibration.Thresholds((0.5, 0.25), 9))
        with pytest.raises(ValueError, match=r"one for each of its 3 classes.*Received: 2"):
            kt.evaluation.evaluate(model, bright(), verbose=0)
        with pytest.raises(ValueError, match=r"values must be a number.*1\.5"):
            kt.calibration.Thresholds((0.5, 1.5), 9)


class TestCalibration:
    """Of several labels: one temperature, and sets that have all classes of an image as promised."""

    @pytest.fixture
    def drawn(self):
        """Images whose pixels are logits, with labels of these probabilities."""
        rng = np.random.default_rng(0)
        z = rng.normal(0, 2, (3000, 3))
        rows = (rng.random(z.shape) < 1 / (1 + np.exp(-z))).astype("int32")
        return z.reshape(-1, 1, 1, 3).astype("float32"), rows

    def model(self, end):
        """One that is three times too sure."""
        layers = keras.layers
        last = (
            [layers.Dense(3, "sigmoid")]
            if end == "inside"
            else [layers.Dense(3), layers.Activation("sigmoid")]
        )
        made = keras.Sequential([keras.Input((1, 1, 3)), layers.Flatten(), *last])
        made.set_weights([3.0 * np.eye(3), np.zeros(3)])
        return made

    @pytest.mark.parametrize("end", ["inside", "behind"])
    def test_probabilities_and_sets_are_as_promised(self, drawn, end, tmp_path):
        model, (x, rows) = self.model(end), drawn
        kt.calibration.find_thresholds(model, (x[:1000], rows[:1000]), verbose=0)
        found = kt.calibration.calibrate(model, (x[:1000], rows[:1000]), 0.8, verbose=0)
        assert found.temperature == pytest.approx(3.0, rel=0.1)
        assert kt.calibration.thresholds_of(model) is None  # they were of other probabilities
        model.save(tmp_path / "model.keras")
        loaded = kt.load_model(tmp_path / "model.keras")
        evaluation = kt.evaluation.evaluate(loaded, (x[1000:], rows[1000:]), verbose=0)
        assert (evaluation.promised, evaluation.coverage) == (0.8, pytest.approx(0.8, abs=0.03))
        among = evaluation.probabilities >= found.threshold
        assert evaluation.candidates == among.sum() / 2000 < 3
        text = " ".join(str(evaluation).split())
        assert f"include all of its classes for {evaluation.coverage:.1%} (promised: 80%)" in text
        optimum = MULTI_LABEL.losses(1 / (1 + np.exp(-x[1000:, 0, 0].astype("float64"))), rows[1000:])
        assert evaluation.log_loss < optimum.mean() + 0.002

    def test_without_it_nothing_is_promised(self):
        evaluation = kt.evaluation.evaluate(sigmoids(), bright(), verbose=0)
        assert evaluation.promised is evaluation.coverage is evaluation.candidates is None

    def test_labels_that_do_not_fit(self, drawn):
        model, (x, rows) = self.model("inside"), drawn
        before = model.get_weights()
        with pytest.raises(ValueError, match=r"rows of 0 and 1 of the shape of logits, \(3000, 3\)"):
            calibrate_by_logits(model, x[:, 0, 0], rows[:, 0])
        with pytest.raises(ValueError, match="rows of 0 and 1"):
            calibrate_by_logits(model, x[:, 0, 0], rows * 0.5)
        assert all(map(np.array_equal, before, model.get_weights()))


class TestEvaluation:
    def test_scores_are_those_of_scikit_learn(self):
        metrics = pytest.importorskip("sklearn.metrics")
        model, (x, y) = sigmoids(), bright(20)
        found = kt.evaluation.evaluate(model, (x, y), verbose=0)
        p = model.predict(x, verbose=0)
        assert found.mean_average_precision == pytest.approx(
            metrics.average_precision_score(y, p), abs=1e-6
        )
        said = p >= 0.5
        for name in ("micro", "macro"):
            score = metrics.f1_score(y, said, average=name, zero_division=0.0)
            assert getattr(found, f"{name}_f1") == pytest.approx(score)
        assert found.exact == pytest.approx(metrics.accuracy_score(y, said))
        losses = [metrics.log_loss(a, b) for a, b in zip(y.T, p.T.astype("float64"), strict=True)]
        assert found.log_loss == pytest.approx(np.mean(losses), rel=1e-5)
        assert [each.samples for each in found.classes] == y.sum(axis=0).tolist()
        assert not found.found_thresholds

    def test_it_prints_as_a_table(self):
        x, y = bright(8)
        model = kt.classifier(tiny_backbone(), 3, task="multi-label", class_names=["red", "no", "blue"])
        found = kt.evaluation.evaluate(model, (x, y * [1, 0, 1]), verbose=0)
        assert "Mean average precision" in str(found)
        assert "thresholds: 0.5 for each" in str(found)
        assert found.classes[1].average_precision is None
        assert json.loads(json.dumps(found.to_dict()))["classes"][1]["name"] == "no"


class TestLinearHead:
    @pytest.fixture(autouse=True)
    def _needs(self):
        pytest.importorskip("sklearn")

    def test_it_is_fitted_to_each_class(self):
        model = kt.fit_linear_head(sigmoids(), bright(), verbose=0)
        assert task_of(model) is MULTI_LABEL
        found = kt.evaluation.evaluate(model, bright(32, seed=1), verbose=0)
        assert found.mean_average_precision > 0.95
        assert found.exact > 0.8

    def test_weights_are_those_of_scikit_learn(self):
        linear_model = pytest.importorskip("sklearn.linear_model")
        linear_fit = pytest.importorskip("keras_transfer.features.probe.linear_fit")
        model, (x, y) = sigmoids(), bright()
        fitted = kt.fit_linear_head(model, (x, y), C=0.1, verbose=0)
        features = keras.Model(model.input, model.get_layer("avg_pool").output).predict(x, verbose=0)
        z = linear_fit.standardised(features, "float64")[0]
        for k in range(3):
            other = linear_model.LogisticRegression(C=0.1, tol=1e-8, max_iter=10_000).fit(z, y[:, k])
            expected = other.predict_proba(z)[:, 1]
            np.testing.assert_allclose(fitted.predict(x, verbose=0)[:, k], expected, atol=2e-4)

    def test_c_is_chosen_by_validation_or_folds(self, capsys):
        kt.fit_linear_head(sigmoids(), bright(), bright(24, seed=1), verbose=2)
        assert "a label on the validation data" in " ".join(capsys.readouterr().out.split())
        kt.fit_linear_head(sigmoids(), bright(), folds=3, verbose=2)
        assert "a label in 3 folds" in " ".join(capsys.readouterr().out.split())

    @pytest.mark.parametrize("options", [{"class_weight": "balanced"}, {"logit_adjustment": 1.0}])
    def test_classes_count_the_same(self, options):
        loader = kt.Loader(bright(), multi_label=True)
        with pytest.raises(ValueError, match="must be None and logit_adjustment 0|class_weight"):
            kt.fit_linear_head(sigmoids(), loader, verbose=0, **options)

    def test_what_it_refuses(self):
        x, y = bright()
        with pytest.raises(ValueError, match=r"method must be 'logistic' for a model with a sigmoid"):
            kt.fit_linear_head(sigmoids(), (x, y), method="ridge", verbose=0)
        with pytest.raises(ValueError, match=r"samples of each of the 3 classes.*of 1 of them: 1"):
            kt.fit_linear_head(sigmoids(), (x, y * [1, 0, 1]), verbose=0)
        with pytest.raises(ValueError, match=r"train must have several labels"):
            kt.fit_linear_head(sigmoids(), (x, y[:, 0]), verbose=0)
        with pytest.raises(ValueError, match=r"one class an image, as this knows no several labels"):
            kt.features.cross_validate_head(sigmoids(), (x, y), verbose=0)


class TestRefused:
    def test_one_class_an_image_for_a_model_of_several(self):
        x, y = bright()
        for data in ((x, y[:, 0]), kt.Loader((x, y[:, 0]), num_classes=3, one_hot=True)):
            with pytest.raises(ValueError, match=r"train must have several labels.*task='single-label'"):
                kt.fine_tune(sigmoids(), data, phases=[HEAD], verbose=0)

    def test_several_labels_for_a_model_of_one(self):
        model, (x, y) = kt.classifier(tiny_backbone(), 3), bright()
        loader = kt.Loader((x, y), multi_label=True)
        with pytest.raises(ValueError, match=r"one class an image.*task='multi-label'.*a Loader with"):
            kt.fine_tune(model, loader, phases=[HEAD], verbose=0)
        with pytest.raises(ValueError, match=r"train must have one class an image.*task='multi-label'"):
            kt.fine_tune(model, (x, y), phases=[HEAD], verbose=0)

    def test_rows_that_are_none(self):
        x, y = bright()
        with pytest.raises(
            ValueError, match=r"train must have rows of 0 and 1.*for sample 0, one of 48"
        ):
            kt.fine_tune(sigmoids(), (x, y + 0.5), phases=[HEAD], verbose=0)

    def test_weights_of_classes(self):
        with pytest.raises(ValueError, match=r"class_weight must be None where an image has several"):
            kt.fine_tune(sigmoids(), bright(), phases=[HEAD], class_weight="balanced", verbose=0)
        model = sigmoids()
        model.compile("sgd", "binary_crossentropy")
        with pytest.raises(ValueError, match=r"class_weight must be None where an image has several"):
            kt.find_lr(model, bright(), class_weight={0: 2.0}, verbose=0)

    def test_a_loss_of_other_logits(self):
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        with pytest.raises(ValueError, match=r"loss must be for a sigmoid.*categorical_crossentropy"):
            kt.fine_tune(sigmoids(), bright(), phases=[HEAD], loss=loss, verbose=0)

    @pytest.mark.parametrize(
        "call",
        [
            kt.automatic.train,
            kt.automatic.propose,
            lambda model, data, verbose: kt.automatic.follow(model, data, [HEAD], verbose=verbose),
            kt.advise,
            lambda model, data, verbose: kt.plots.top_losses(model, data),
        ],
    )
    def test_what_knows_no_several_labels_yet_says_so(self, call):
        """Not by a silently wrong result, of the first class of each."""
        for model in (sigmoids(), kt.classifier(tiny_backbone(), 3)):
            data = kt.Loader(bright(), multi_label=True)
            with pytest.raises(ValueError, match=r"one class an image.*these do: kt\.fit_linear_head"):
                call(model, data, verbose=0)
