"""Pictures from the network: a file of limited size within a limited time, whatever the server does."""

import http.client
import io
import socket
import tempfile
import threading
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
from typing import IO

from dfine_jax.inference.picture_error import PictureError, reason

ANSWER_TIMEOUT = 20.0
"""Seconds until a server has answered: to look its name up, connect, follow redirections and read the whole header."""
SILENCE_TIMEOUT = 20.0
"""Seconds that it may stay silent after that."""
DOWNLOAD_TIMEOUT = 120.0
"""Seconds that all of it may take."""
LOOKING = 0.2
"""Seconds between looks at whether a download is still wanted."""
MAX_DOWNLOAD = 128 * 2**20
"""Bytes of the largest picture taken."""
IN_MEMORY = 8 * 2**20
"""Bytes of a picture that are kept in memory; a larger one goes to a temporary file."""
SCHEMES = ("http", "https", "data")

# Some servers refuse urllib's own name.
HEADERS = {"User-Agent": "dfine-jax", "Accept": "image/*,*/*;q=0.5"}


def fetch(address: str, name: str, stopped: threading.Event | None = None) -> IO[bytes]:
    """Fetches what lies behind a http, https or data address, as a file at its start.

    `name` is what messages call it. `PictureError` says why there is nothing, also when somebody sets `stopped`.
    """
    if any(unicodedata.category(character) == "Cc" for character in address):
        raise PictureError(f"{name}: control characters in an address; write them as %0A and the like")
    parts = address if address.startswith("data:") else _parts(address, name)
    if not isinstance(parts, str) and "@" in parts.netloc:
        raise PictureError(f"{name}: user names and passwords aren't sent; download it and give the file's path")
    download = _Download(address, name)
    # In a thread, since no time limit holds for looking a name up.
    threading.Thread(target=download.run, name="download", daemon=True).start()
    return download.result(stopped or threading.Event())


def _parts(address: str, name: str) -> urllib.parse.SplitResult:
    try:
        return urllib.parse.urlsplit(address)
    except ValueError as error:
        raise _unreachable(name, error) from None


class _Download:
    """One download: `run` in its thread, `result` in the one that waits for it."""

    def __init__(self, address: str, name: str):
        self.address, self.name = address, name
        self.began = time.monotonic()
        self.file: IO[bytes] | None = None
        self.error: Exception | None = None
        self.answered, self.ended = threading.Event(), threading.Event()
        self.given_up = False

    def run(self) -> None:
        try:
            self.file = self._fetched()
        except Exception as error:  # for the thread that waits
            self.error = error
        finally:
            self.answered.set()
            self.ended.set()

    def result(self, stopped: threading.Event) -> IO[bytes]:
        """Waits no longer than the limits allow, and until `stopped` is set."""
        try:
            if not self._happens(self.answered, ANSWER_TIMEOUT, stopped):
                raise self._late(ANSWER_TIMEOUT, "no answer")
            if not self._happens(self.ended, self._left(), stopped):
                raise self._late(DOWNLOAD_TIMEOUT, "not here")
        finally:
            self.given_up = True
        if self.error is not None:
            raise self.error
        return self.file

    def _happens(self, event: threading.Event, seconds: float, stopped: threading.Event) -> bool:
        end = time.monotonic() + seconds
        while not event.wait(max(0.0, min(LOOKING, end - time.monotonic()))):
            if stopped.is_set():
                raise PictureError(f"{self.name}: stopped before it was here")
            if time.monotonic() >= end:
                return False
        return True

    def wait_for_more(self) -> float:
        """How many seconds the next part may take; `PictureError` where nobody waits for it any more."""
        left, late = ANSWER_TIMEOUT - (time.monotonic() - self.began), self._late(ANSWER_TIMEOUT, "no answer")
        if self.answered.is_set():
            left, late = min(SILENCE_TIMEOUT, self._left()), self._late(DOWNLOAD_TIMEOUT, "not here")
        if self.given_up or left <= 0:
            raise late
        return left

    def _left(self) -> float:
        return DOWNLOAD_TIMEOUT - (time.monotonic() - self.began)

    def _late(self, seconds: float, what: str) -> PictureError:
        return PictureError(
            f"{self.name}: {what} after {seconds:g} seconds (timed out); download it and give the file's path"
        )

    def _fetched(self) -> IO[bytes]:
        is_data = self.address.startswith("data:")
        try:
            # People paste addresses with spaces and accents in them; what is already escaped stays as it is.
            quoted = self.address if is_data else urllib.parse.quote(self.address, safe=":/?#[]@!$&'()*+,;=%~")
            request = urllib.request.Request(quoted, headers=HEADERS)
            with _opener(self).open(request, timeout=ANSWER_TIMEOUT) as response:
                self.answered.set()
                if response.headers.get_content_type() == "text/html":
                    raise PictureError(f"{self.name}: the address leads to a web page; use the picture's own address")
                return self._body(response)
        except PictureError:
            raise
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            raise PictureError(
                f"{self.name}: the server answered {error.code} {reason(error)}; check the address"
            ) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            if is_data:
                raise PictureError(f"{self.name}: a malformed data address ({reason(error)})") from None
            raise _unreachable(self.name, error) from None

    def _body(self, response: http.client.HTTPResponse) -> IO[bytes]:
        file, length = tempfile.SpooledTemporaryFile(IN_MEMORY), 0  # noqa: SIM115 - whoever reads it ends it
        while chunk := response.read1(2**16):
            length += len(chunk)
            if length > MAX_DOWNLOAD:
                limit = MAX_DOWNLOAD // 2**20
                raise PictureError(f"{self.name}: more than {limit} MiB; download it and give the file's path")
            file.write(chunk)
        if not length:
            raise PictureError(f"{self.name}: the server sent nothing; check the address")
        file.seek(0)
        return file


def _unreachable(name: str, error: Exception) -> PictureError:
    return PictureError(f"{name}: can't be reached ({reason(error)}); check the address and the network")


class _TimedFile(io.RawIOBase):
    """What a socket receives, each part only as long as somebody waits for it."""

    def __init__(self, connection: socket.socket, download: _Download):
        self._connection, self._download = connection, download
        self._file = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:
        self._connection.settimeout(self._download.wait_for_more())
        try:
            return self._file.readinto(buffer)
        except TimeoutError:
            self._download.wait_for_more()  # says which of the limits it was
            raise

    def close(self) -> None:
        self._file.close()
        super().close()


def _opener(download: _Download) -> urllib.request.OpenerDirector:
    """Opens http, https and data addresses and nothing else; servers answer in time or not at all."""

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *args, **options):
            super().__init__(sock, *args, **options)
            self.fp.close()
            self.fp = io.BufferedReader(_TimedFile(sock, download))

    class Connection(http.client.HTTPConnection):
        response_class = Response

    class SafeConnection(http.client.HTTPSConnection):
        response_class = Response

    class Plain(urllib.request.HTTPHandler):
        def http_open(self, request):
            return self.do_open(Connection, request)

    class Safe(urllib.request.HTTPSHandler):
        def https_open(self, request):
            return self.do_open(SafeConnection, request)

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.UnknownHandler, Plain, Safe, urllib.request.DataHandler,
        urllib.request.HTTPDefaultErrorHandler, _Redirections, urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Follows redirections without reading what a server sends beside the new address."""

    def http_error_302(self, request, response, code, message, headers):
        return super().http_error_302(request, _Unread(response), code, message, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Unread:
    def __init__(self, response: IO[bytes]):
        self.close = response.close

    def read(self) -> bytes:
        return b""
