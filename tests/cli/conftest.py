"""A folder of small images, a model trained on one, and the command line run in this process."""

import os

import pytest
from folders import SMALL, write_images

testing = pytest.importorskip("typer.testing")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Twenty images of each of two classes, not divided."""
    root = tmp_path_factory.mktemp("photos")
    write_images(root / "dark", 0, 20)
    write_images(root / "light, very", 180, 20, first=100)
    return root


@pytest.fixture(scope="session")
def keras_transfer():
    """Return a function that runs the command line in this process."""
    from keras_transfer.cli.app import app

    def run(*arguments):
        before = dict(os.environ)
        try:
            return testing.CliRunner().invoke(app, [str(each) for each in arguments])
        finally:
            os.environ.clear()
            os.environ.update(before)

    return run


@pytest.fixture(scope="session")
def run_folder(photos, keras_transfer, tmp_path_factory):
    """Return the folder that `train` has written."""
    from keras_transfer.runs import automatic

    folder = tmp_path_factory.mktemp("runs") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(automatic, "_ENOUGH", 1)  # one fold, instead of three
        result = keras_transfer("train", photos, *SMALL, "--output", folder, "--quiet")
    assert result.exit_code == 0, result.output
    return folder
