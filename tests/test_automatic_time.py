"""Automatic training within a time: what it foresees, leaves out, shortens and gives up."""

import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from automatics import assert_equal, classifier, plan_of, stripes, values

from keras_transfer.features.cache import limited
from keras_transfer.runs import automatic, budget, search, stage
from keras_transfer.runs.automatic import EVERYTHING, LAST_GROUP, LINEAR
from keras_transfer.runs.budget import Budget, Deadline, OutOfTimeError, Pace, Stopwatch

pytest.importorskip("sklearn")


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that a test sets, in the place of the process's."""
    now = SimpleNamespace(seconds=0.0)
    for module in (budget, limited):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


class TestBudget:
    def test_a_pass_that_takes_too_long_is_an_error_early(self, clock):
        clock.seconds = 20.0

        def slow():
            with Budget(10, started=0.0).of_pass() as told:
                # 10 s are too few to tell; 20 s for 64 images: 9,904 take 3,095 s more.
                for clock.seconds, done in ((30.0, 32), (35.0, 48), (40.0, 64), (50.0, 96)):
                    told(done, 10_000)

        with pytest.raises(ValueError, match=r"minutes must be at least 53 .* 10,000 images") as error:
            slow()
        assert "Received: minutes=10" in str(error.value)
        needed = float(re.search(r"at least (\S+)", str(error.value))[1])
        assert clock.seconds == 50.0
        assert 60 * needed >= 50 + 20 / 64 * 9_904 > 60 * (needed - 1)

    def test_a_pass_that_fits_tells_what_an_image_takes(self, clock):
        some = Budget(1, evaluated=100, afterwards=5, started=0.0)
        with some.of_pass() as told:
            for clock.seconds, done in ((3.0, 20), (5.0, 60), (7.0, 100)):
                told(done, 100)
        assert told.an_image == 4 / 80
        some.an_image = told.an_image
        assert some.in_all(10) == 7 + 10 + 100 * 4 / 80 + 5
        assert some.fits(43)
        assert not some.fits(43.1)

    def test_without_minutes_all_fits(self, clock):
        some = Budget(None, started=0.0)
        with some.of_pass() as told:
            for clock.seconds, done in ((1e6, 1), (2e6, 2), (3e6, 3)):
                told(done, 100)
        assert some.fits(1e9)

    def test_a_deadline_is_behind_the_last_minute(self, clock):
        deadline = Deadline(Budget(1, evaluated=10, afterwards=3, started=0.0))
        clock.seconds = 59.9  # and 3 s for what comes afterwards
        deadline.on_train_batch_begin(0)
        clock.seconds = 60.1
        with pytest.raises(OutOfTimeError):
            deadline.on_train_batch_begin(0)

    def test_a_stopwatch_tells_steps_from_what_is_around_them(self, clock):
        watch = Stopwatch()
        for clock.seconds in (7.0, 7.5, 8.1, 12.0):  # the first and the last are compiled
            watch.on_train_batch_end(0, {"loss": 0.0})
        clock.seconds = 13.0
        assert watch.pace() == Pace(13 - 4 * 0.5, 0.5)
        assert watch.pace().seconds(10) == 11 + 5


class TestSearch:
    @pytest.mark.parametrize(
        ("minutes", "decision"),
        [
            # Seconds: 20 for the steps of a fold and 4/3 for looks, 30 for all images, 2 for each start.
            (5, (3, 10, True)),
            (1.65, (2, 10, True)),
            (1.0, (1, 10, True)),
            (0.5, (1, 10, False)),
            (0.25, (1, 5, False)),
            (0.17, (1, 2, False)),
            (0.1, None),
        ],
    )
    def test_as_much_is_tried_as_fits(self, minutes, decision, clock, monkeypatch):
        monkeypatch.setattr(stage.Stage, "pace", lambda self, samples: Pace(2.0, 1.0))
        seen, decided = [], search.Search._affordable

        def affordable(self, stage):
            seen.append(decided(self, stage))
            return {"seconds": 1.0}  # and nothing is trained

        monkeypatch.setattr(search.Search, "_affordable", affordable)
        model, data = classifier(), stripes(90)
        plan = plan_of(model, data, EVERYTHING, epochs=10, tries=3)
        limit = Budget(minutes, started=0.0)
        automatic.train(model, data, plan=plan, minutes=limit, verbose=0)
        (found,) = seen
        names = ("folds", "epochs", "whole")
        assert (tuple(found[name] for name in names) if "folds" in found else None) == decision

    def test_what_can_not_fit_is_not_even_timed(self, monkeypatch):
        """By the rate of the pass alone, of which a step takes some."""
        monkeypatch.setattr(stage, "_FORWARD", 1e9)
        monkeypatch.setattr(stage.Stage, "pace", lambda self, samples: 1 / 0)
        model, data = classifier(), stripes(96)
        plan, limit = plan_of(model, data, EVERYTHING), Budget(60)
        trained = automatic.train(model, data, plan=plan, minutes=limit, verbose=0)
        assert [each.name for each in trained.left_out] == [EVERYTHING]
        assert trained.left_out[0].seconds > 3600
        assert limit.an_image > 0

    def test_fewer_epochs_have_a_cycle_of_their_own(self, monkeypatch):
        way = {"folds": 1, "epochs": 3, "whole": False, "seconds": 0.0}
        monkeypatch.setattr(search.Search, "_affordable", lambda self, stage: way)
        cycles, cycle = [], stage.OneCycle
        monkeypatch.setattr(stage, "OneCycle", lambda *given: cycles.append(given) or cycle(*given))
        model, data = classifier(), stripes(96)
        trained = automatic.train(model, data, plan=plan_of(model, data, epochs=6), verbose=0)
        assert trained.scores[1].epochs == 3
        assert {steps for _, steps in cycles} == {3 * 2}  # 64 images in batches of 32

    def test_folds_are_judged_together(self):
        model, data = classifier(), stripes(90)
        plan = plan_of(model, data, epochs=20, tries=3)
        trained = automatic.train(model, data, plan=plan, augmentation=None, verbose=0)
        assert trained.scores[1].samples == 90
        assert trained.chosen == LAST_GROUP
        assert trained.calibration.samples == 90

    def test_what_takes_longer_than_foreseen_is_given_up(self, clock, monkeypatch):
        monkeypatch.setattr(stage.Stage, "pace", lambda self, samples: Pace(0.0, 0.0))
        fits = stage.Stage._fit

        def late(self, *arguments):
            clock.seconds += 64
            return fits(self, *arguments)

        monkeypatch.setattr(stage.Stage, "_fit", late)
        model, data = classifier(), stripes(60)
        frozen = values(model)[:4]
        plan = plan_of(model, data)
        trained = automatic.train(model, data, plan=plan, minutes=Budget(1, started=0.0), verbose=0)
        assert [score.name for score in trained.scores] == [LINEAR]
        assert [each.name for each in trained.left_out] == [LAST_GROUP]
        assert_equal(values(model)[:4], frozen)

    @pytest.mark.parametrize("whole", [True, False])
    def test_without_time_for_all_images_the_try_is_kept(self, whole, monkeypatch):
        monkeypatch.setattr(search, "is_better", lambda score: True)
        way = {"folds": 1, "epochs": 4, "whole": whole, "seconds": 0.0}
        monkeypatch.setattr(search.Search, "_affordable", lambda self, stage: way)
        monkeypatch.setattr(stage, "_SHARES", (0.5,))
        trains, moved = stage.Stage.train, []

        def watched(self, samples, epochs, name):
            if name == "all images":
                raise OutOfTimeError
            before = values(self._tail)
            trains(self, samples, epochs, name)
            moved[:] = before, values(self._tail)

        monkeypatch.setattr(stage.Stage, "train", watched)
        model, data = classifier(), stripes(60)
        plan = plan_of(model, data, EVERYTHING)
        trained = automatic.train(model, data, plan=plan, verbose=0)
        assert trained.chosen == EVERYTHING
        assert len(trained.fine_tuning.history["loss"]) == 4
        # The temperature is divided out of the head.
        for found, before, after in zip(values(model)[:-2], *(each[:-2] for each in moved), strict=True):
            np.testing.assert_allclose(found, (before + after) / 2, rtol=1e-5, atol=1e-6)

    def test_time_for_the_best_so_far_is_kept(self, monkeypatch):
        """A second depth is measured by what is left when the first is trained on all images."""
        some = search.Search([(np.arange(20), np.arange(20, 40))], None, None)
        thing = SimpleNamespace(cost=40.0)
        some.taken = thing
        some.context = SimpleNamespace(
            budget=Budget(1), seen=SimpleNamespace(labels=np.arange(40) % 2), journal=None
        )
        some.start_from = lambda samples: None
        at = SimpleNamespace(
            depth=SimpleNamespace(epochs=4),
            pace=lambda samples: Pace(0.0, 1.0),
            steps=lambda samples, epochs: epochs * samples / 10,
            steps_beside=lambda samples: 2.0,
            least_seconds=lambda samples, epochs: 0.0,
        )
        assert some._affordable(at)["folds"] == 1  # 10 s for the try, then 16 or 40
        thing.cost = 59.5
        assert "folds" not in some._affordable(at)


def test_the_pace_of_a_real_network(monkeypatch):
    """A network of known steps: each waits."""
    import time

    class Slow(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            time.sleep(0.2)

    model, data = classifier(), stripes(100)
    watch = Stopwatch()
    tail = keras.Model(model.inputs, model.get_layer("predictions").output)
    tail.compile("adam", "mse")
    x, y = data
    tail.fit(x, np.eye(2)[y], batch_size=25, verbose=0, callbacks=[watch, Slow()])
    pace = watch.pace()
    assert 0.2 <= pace.step < 2.0
