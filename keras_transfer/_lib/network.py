"""Downloads that fail soon, and say what to do, where there is no network."""

import contextlib
import http.client
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from keras_transfer._lib.attributes import attributes
from keras_transfer._lib.messages import downloads_in_lines

# The first answer of a server, and each later read, must come within this time.
TIMEOUT_SECONDS = 8.0

T = TypeVar("T")


@contextlib.contextmanager
def fetching(what: str, advice: str) -> Iterator[None]:
    """Run Keras' downloads inside the block with a time limit and one clear error.

    Keras downloads with `urllib` and without a time limit, so a network that swallows packets would
    hold the program for minutes. While the block runs, `urllib` has an opener with a limit.

    Raises:
        ConnectionError: the download failed; the message has `what` was fetched, and `advice` for one
            without a network. Other errors of the block pass unchanged.
    """
    previous = getattr(urllib.request, "_opener", None)
    opener = _DeadlineOpener(previous or urllib.request.build_opener())
    try:
        with attributes(urllib.request, _opener=opener), downloads_in_lines() as opener.tell:
            yield
    except Exception as error:
        # Keras makes a bare Exception of what urllib raises.
        network = type(error) is Exception or isinstance(error, OSError | http.client.HTTPException)
        if opener.url is None or not network:
            raise  # nothing was fetched, or what was fetched is at fault
        raise ConnectionError(
            f"could not fetch {what} from {opener.url} within {TIMEOUT_SECONDS:g} s. {advice} "
            f"Received: {error}"
        ) from error


class _DeadlineOpener:
    """Opens URLs as `opener` does, but gives up after `TIMEOUT_SECONDS`."""

    def __init__(self, opener: urllib.request.OpenerDirector) -> None:
        self._opener = opener
        self.url: str | None = None
        self.tell: Callable[[str], None] = lambda line: None

    def open(self, request: Any, data: Any = None, timeout: Any = None) -> Any:
        self.url = getattr(request, "full_url", request)
        self.tell(f"Downloading {self.url}")
        try:
            return within_deadline(lambda: self._opener.open(request, data, TIMEOUT_SECONDS))
        except TimeoutError as error:
            raise urllib.error.URLError(error) from error
        except urllib.error.HTTPError as error:
            error.close()  # Keras leaves the connection open
            raise


def within_deadline(call: Callable[[], T]) -> T:
    """Return what `call` returns, or raise a `TimeoutError` after `TIMEOUT_SECONDS`."""
    outcome: Future[T] = Future()

    # A socket's time limit holds for each address of a host in turn, and not for the look-up of its
    # name, so the limit on the whole is kept by waiting for a thread.
    def run() -> None:
        try:
            outcome.set_result(call())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([outcome], TIMEOUT_SECONDS).done:
        raise TimeoutError("timed out")
    return outcome.result()
