"""Automatic training that was stopped goes on, and gives what it would have given."""

import json

import keras
import pytest
from automatics import assert_equal, classifier, plan_of, stripes, values

import keras_transfer as kt
from keras_transfer.runs import automatic, journal, search
from keras_transfer.runs.automatic import EVERYTHING, LAST_GROUP
from keras_transfer.runs.budget import OutOfTimeError
from keras_transfer.runs.stage import Stage

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


class Stop(keras.callbacks.Callback):
    """Stops the process, as Ctrl-C does, when an epoch begins."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        """Stop in that epoch."""
        if epoch == self.epoch:
            raise KeyboardInterrupt


class Watch(keras.callbacks.Callback):
    """Takes the place of `Stop`, of which a run that goes on must know as little."""


Watch.__name__ = Stop.__name__


def train(name, folder=None, stop=None, **options):
    """Return what automatic training gives, and the weights; or stop it in a training's epoch."""
    keras.utils.clear_session(free_memory=False)
    model, data = classifier(), stripes(90)
    plan = plan_of(model, data, name, epochs=12, tries=2)

    def callbacks(training):
        return [Stop(stop[1]) if stop and training == f"{name}, {stop[0]}" else Watch()]

    given = {"plan": plan, "augmentation": None, "checkpoint": folder, "callbacks": callbacks}
    trained = automatic.train(model, data, **given | {"verbose": 0} | options)
    return trained, values(model)


class TestResuming:
    @pytest.mark.parametrize("name", [LAST_GROUP, EVERYTHING])
    def test_gives_what_it_would_have_given(self, name, tmp_path, monkeypatch):
        monkeypatch.setattr(search, "is_better", lambda score: True)
        whole, weights = train(name)
        for stop in (("fold 0", 5), ("fold 1", 0), ("all images", 7)):
            with pytest.raises(KeyboardInterrupt):
                train(name, tmp_path, stop, resume=True)
        trained, found = train(name, tmp_path, resume=True)
        assert trained.scores == whole.scores
        assert trained.calibration == whole.calibration
        assert trained.fine_tuning.history == whole.fine_tuning.history
        assert_equal(found, weights)

    def test_trains_nothing_twice(self, tmp_path, monkeypatch):
        with pytest.raises(KeyboardInterrupt):
            train(LAST_GROUP, tmp_path, ("fold 1", 3))
        epochs = []
        monkeypatch.setattr(Watch, "on_epoch_begin", lambda self, epoch, logs=None: epochs.append(epoch))
        monkeypatch.setattr(search, "is_better", lambda score: False)
        train(LAST_GROUP, tmp_path, resume=True)
        assert epochs == list(range(3, 12))

    def test_begins_anew_unless_told(self, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            train(LAST_GROUP, tmp_path, ("fold 1", 3))
        trained, _ = train(LAST_GROUP, tmp_path)
        assert trained.scores[1].samples == 60

    def test_decides_again_what_was_decided(self, tmp_path, monkeypatch):
        """What there was no time for is left out, however much there is now."""
        trains = Stage.train

        def late(self, samples, epochs, name):
            if name == "fold 1":
                raise OutOfTimeError
            trains(self, samples, epochs, name)

        monkeypatch.setattr(Stage, "train", late)
        assert train(LAST_GROUP, tmp_path)[0].scores[1].samples == 30
        monkeypatch.setattr(Stage, "train", trains)
        assert train(LAST_GROUP, tmp_path, resume=True)[0].scores[1].samples == 30

    def test_needs_the_same_settings(self, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            train(LAST_GROUP, tmp_path, ("fold 0", 1))
        with pytest.raises(
            ValueError, match=r"settings and versions as they were.* seed: 0 then, 1 now"
        ):
            train(LAST_GROUP, tmp_path, resume=True, seed=1)
        with pytest.raises(ValueError, match=r"as they were.* plan"):
            train(EVERYTHING, tmp_path, resume=True)

    @pytest.mark.parametrize("text", ["", "[]", '{"run": {}, "spent": "long", "decisions": {}}'])
    def test_a_damaged_journal(self, text, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            train(LAST_GROUP, tmp_path, ("fold 0", 1))
        (tmp_path / "decisions.json").write_text(text)
        with pytest.raises(ValueError, match=r"decisions.json is damaged .* resume=False"):
            train(LAST_GROUP, tmp_path, resume=True)

    def test_a_run_of_phases(self, tmp_path):
        def follow(stop=None, **options):
            keras.utils.clear_session(free_memory=False)
            model = classifier()
            phases = [kt.Phase("head", 3, learning_rate=0.1)]
            callbacks = [Stop(stop) if stop else Watch()]
            given = {"callbacks": callbacks, "verbose": 0} | options
            automatic.follow(model, stripes(60), phases, **given)
            return values(model)

        with pytest.raises(KeyboardInterrupt):
            follow(2, checkpoint=tmp_path)
        assert_equal(follow(checkpoint=tmp_path, resume=True), follow())


class TestFolder:
    def test_with_other_things_is_refused(self, tmp_path):
        (tmp_path / "holiday.jpg").write_text("a photo")
        with pytest.raises(ValueError, match=r"folder of its own.* holiday.jpg"):
            train(LAST_GROUP, tmp_path)
        assert (tmp_path / "holiday.jpg").read_text() == "a photo"

    def test_of_another_run_is_refused(self, tmp_path):
        with (
            journal.opened(tmp_path, None),
            pytest.raises(ValueError, match="another one is using it"),
        ):
            train(LAST_GROUP, tmp_path)

    def test_is_needed_to_resume(self):
        with pytest.raises(ValueError, match="checkpoint="):
            train(LAST_GROUP, resume=True)

    def test_is_forgotten_but_for_what_is_not_of_it(self, tmp_path):
        train(LAST_GROUP, tmp_path / "run")
        assert json.loads((tmp_path / "run" / "decisions.json").read_text())["decisions"]
        journal.forget(tmp_path / "run")
        assert not (tmp_path / "run").exists()
        train(LAST_GROUP, tmp_path / "run")
        (tmp_path / "run" / "note.txt").write_text("mine")
        journal.forget(tmp_path / "run")
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["note.txt"]
