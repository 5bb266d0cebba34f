"""Which backend the command line takes where nobody has said."""

import sys

import pytest

pytest.importorskip("typer")
from keras_transfer.cli import app, main


@pytest.fixture
def chosen(monkeypatch, tmp_path):
    """Return a function that tells the choice with some packages and what Keras' settings say."""

    def choose(installed, settings=None):
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        monkeypatch.delenv("KERAS_BACKEND", raising=False)
        if settings is not None:
            (tmp_path / "keras.json").write_text(settings)
        monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: name in installed or None)
        app._choose(None)
        return app.os.environ.get("KERAS_BACKEND")

    return choose


def test_the_one_that_is_installed(chosen):
    assert chosen(["torch"]) == "torch"


def test_what_keras_wrote_by_itself_does_not_count(chosen):
    # It names TensorFlow after the first command, which ran without.
    assert chosen(["torch"], '{"backend": "tensorflow"}') == "torch"


@pytest.mark.parametrize("settings", ['{"backend": "jax"}', '{"backend": "jax", "floatx": "float32"}'])
def test_what_a_user_wrote_counts(chosen, settings):
    assert chosen(["torch", "jax"], settings) == "jax"


@pytest.mark.parametrize("settings", ["", "[]", "{", '{"backend": 1}'])
def test_damaged_settings(chosen, settings):
    assert chosen(["jax"], settings) == "jax"


def test_none(chosen):
    with pytest.raises(ImportError, match=r"pip install 'keras-transfer\[torch\]'"):
        chosen([])


def test_without_typer_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"needs typer: pip install 'keras-transfer\[cli\]'"):
        main()
