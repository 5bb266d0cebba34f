import http.client
import http.server
import socket
import threading
import urllib.error
import urllib.request

import keras
import pytest

from keras_transfer._lib import network
from keras_transfer._lib.network import fetching
from keras_transfer.data import load


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    """No proxy between us and ourselves, a short limit, and the opener as it was at the end."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(network, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(urllib.request, "_opener", None)


@pytest.fixture
def silent():
    """The URL of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/data.bin"


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", "8")
        self.end_headers()
        if self.path.startswith("/stalls"):
            self.wfile.write(b"half")
            self.wfile.flush()
            self.server.released.wait(10)
        elif self.path.startswith("/breaks"):
            self.wfile.write(b"half")
        else:
            self.wfile.write(b"contents")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    """The URL of a server with the files data.bin, missing, stalls and breaks."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.daemon_threads = True
        server.released = threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.released.set()
        server.shutdown()
        thread.join()


def fetch(url, folder):
    return keras.utils.get_file(origin=url, cache_dir=folder)


def opener_that(open_url):
    """An opener director whose `open` is the given function."""
    opener = urllib.request.OpenerDirector()
    opener.open = open_url
    return opener


def failing(error):
    def open_url(request, data=None, timeout=None):
        raise error

    return opener_that(open_url)


def test_a_file_is_fetched(server, tmp_path):
    with fetching("the file", "Advice."):
        path = fetch(f"{server}/data.bin", tmp_path)
    with open(path, "rb") as file:
        assert file.read() == b"contents"


def test_a_server_that_never_answers(silent, tmp_path):
    with (
        pytest.raises(
            ConnectionError, match=r"^could not fetch the file from http.* Advice\. Rec"
        ) as error,
        fetching("the file", "Advice."),
    ):
        fetch(silent, tmp_path)
    assert silent in str(error.value)
    assert "0.3 s" in str(error.value)
    assert "timed out" in str(error.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing", "404 -- Not Found"), ("stalls", "timed out"), ("breaks", "incomplete")],
)
def test_a_server_that_fails(name, reason, server, tmp_path):
    with (
        pytest.raises(ConnectionError, match=f"from {server}/{name} within .*{reason}"),
        fetching("the file", "Advice."),
    ):
        fetch(f"{server}/{name}", tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_name_that_is_looked_up_for_ever():
    # A socket's own limit does not hold for that.
    release = threading.Event()
    urllib.request.install_opener(opener_that(lambda *arguments: release.wait(20)))
    with pytest.raises(ConnectionError, match="timed out"), fetching("the file", "Advice."):
        urllib.request.urlopen("http://example.invalid/data.bin")
    release.set()


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError(OSError("Name or service not known")),
        ConnectionResetError("reset by peer"),
        http.client.RemoteDisconnected("closed without response"),
        http.client.BadStatusLine("?"),
    ],
)
def test_errors_of_the_network(error, tmp_path):
    urllib.request.install_opener(failing(error))
    with (
        pytest.raises(ConnectionError, match=r"could not fetch it from http://example.invalid/x within"),
        fetching("it", "Advice."),
    ):
        fetch("http://example.invalid/x", tmp_path)


@pytest.mark.parametrize("error", [ValueError("wrong hash"), RuntimeError("bug"), KeyError("name")])
def test_errors_that_are_not_of_the_network(error, server):
    def read(then):
        with urllib.request.urlopen(f"{server}/data.bin") as response:
            response.read()
        raise then

    with pytest.raises(type(error)) as caught, fetching("the file", "Advice."):
        read(error)
    assert caught.value is error


@pytest.mark.parametrize(
    "error", [OSError("disk"), Exception("something"), FileNotFoundError("x"), KeyboardInterrupt()]
)
def test_errors_before_anything_was_fetched(error):
    def work():
        raise error

    with pytest.raises(type(error)) as caught, fetching("the file", "Advice."):
        work()
    assert caught.value is error


def test_the_opener_is_put_back(silent, tmp_path):
    own = urllib.request.build_opener()
    for opener in (None, own):
        urllib.request.install_opener(opener)
        with fetching("the file", "Advice."):
            assert urllib.request._opener is not opener
        assert urllib.request._opener is opener
        with pytest.raises(ConnectionError), fetching("the file", "Advice."):
            fetch(silent, tmp_path)
        assert urllib.request._opener is opener


def test_the_users_opener_does_the_work():
    asked = []

    def open_url(request, data=None, timeout=None):
        asked.append((request, timeout))
        return "response"

    urllib.request.install_opener(opener_that(open_url))
    with fetching("the file", "Advice."):
        assert urllib.request.urlopen("http://example.invalid/x") == "response"
        with fetching("another", "Advice."):
            assert urllib.request.urlopen("http://example.invalid/y") == "response"
    assert asked == [("http://example.invalid/x", 0.3), ("http://example.invalid/y", 0.3)]


# Through `load`


@pytest.mark.parametrize("kind", ["silent", "no network"])
def test_a_data_set_that_cannot_be_fetched(kind, silent, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: fetch(silent, tmp_path))
    if kind == "no network":
        urllib.request.install_opener(failing(urllib.error.URLError("Network is unreachable")))
    with pytest.raises(ConnectionError) as caught:
        load("cifar10", "train", image_size=32)
    for part in ("the data set cifar10", silent, "TFDS_DATA_DIR", "KERAS_HOME", "Received: "):
        assert part in str(caught.value)
    assert ("unreachable" if kind == "no network" else "timed out") in str(caught.value)


def test_the_limit_leaves_time_to_say_so(monkeypatch):
    monkeypatch.undo()
    assert network.TIMEOUT_SECONDS < 15
