"""Servers that behave badly. Limits are tenths of seconds here; each test would hang, or take seconds, without them."""

import contextlib
import socket
import threading
import time

import pytest

from dfine_jax.inference import addresses, detector
from dfine_jax.inference.pictures import PictureError, load_picture

HEADER = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"


class Server:
    """Answers every connection with what `answer` yields, until the other side has gone."""

    def __init__(self, answer):
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listening.getsockname()[1]}/a.png"
        self.answer = answer
        self.connections = 0
        self.hung_up = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                self.connections += 1
                threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(2**16)
            for part in self.answer(self):
                connection.sendall(part)
            return
        self.hung_up.set()  # sending failed


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(addresses, "ANSWER_TIMEOUT", 0.5)
    monkeypatch.setattr(addresses, "SILENCE_TIMEOUT", 0.5)
    monkeypatch.setattr(addresses, "DOWNLOAD_TIMEOUT", 1.0)
    with contextlib.ExitStack() as stack:

        def start(answer):
            server = Server(answer)
            stack.callback(server.listening.close)
            return server

        yield start


def error_of(address):
    with pytest.raises(PictureError) as caught:
        load_picture(address)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 300
    return message


def slowly(data):
    for byte in data:
        time.sleep(0.05)
        yield bytes([byte])


def test_a_header_that_comes_byte_by_byte(serve):
    server = serve(lambda server: slowly(HEADER + b"X: " + b"x" * 10**4))
    assert "no answer after 0.5 seconds" in error_of(server.address)
    assert server.hung_up.wait(10), "the connection is still open"


def test_a_body_that_comes_byte_by_byte(serve):
    def answer(server):
        yield HEADER + b"\r\n"
        yield from slowly(b"x" * 10**4)

    server = serve(answer)
    assert "not here after 1 seconds" in error_of(server.address)
    assert server.hung_up.wait(10), "the connection is still open"


def test_a_server_that_falls_silent(serve):
    def answer(server):
        yield HEADER + b"Content-Length: 1000\r\n\r\nabc"
        time.sleep(60)

    assert "timed out" in error_of(serve(answer).address)


def test_redirections_without_end(serve):
    def answer(server):
        yield b"HTTP/1.1 302 Found\r\nLocation: /%d\r\nContent-Length: 0\r\n\r\n" % server.connections

    assert "the server answered 302" in error_of(serve(answer).address)


def test_a_redirection_with_a_body_without_end(serve):
    """What comes beside the new address is not waited for."""

    def answer(server):
        yield (
            b"HTTP/1.1 302 Found\r\nLocation: /empty\r\n\r\n"
            if server.connections == 1
            else (HEADER + b"Content-Length: 0\r\n\r\n")
        )
        while server.connections == 1:
            yield b"x" * 2**16

    assert "the server sent nothing" in error_of(serve(answer).address)


@pytest.mark.parametrize("location", [b"file:///etc/passwd", b"ftp://127.0.0.1/a.png", b"http://[", b"http://a b/\x1b"])
def test_redirections_to_elsewhere(serve, location):
    def answer(server):
        yield b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"

    error_of(serve(answer).address)


@pytest.mark.parametrize(
    "answer",
    [b"", b"\x00\xff" * 100, b"HTTP/1.1 200 \x1b[31m\r\n\r\n", b"HTTP/1.1 500 \x1b[31mno\r\n\r\n", b"x" * 10**6],
)
def test_answers_that_are_none(serve, answer):
    error_of(serve(lambda server: [answer]).address)


def test_a_name_that_is_looked_up_for_ever(serve, monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: answered.wait(30))
    assert "no answer after 0.5 seconds" in error_of("http://example.org/a.png")
    answered.set()


def test_a_large_picture_does_not_stay_in_memory(serve, monkeypatch):
    monkeypatch.setattr(addresses, "IN_MEMORY", 100)
    server = serve(lambda server: [HEADER + b"Content-Length: 300\r\n\r\n" + b"x" * 300])
    with addresses.fetch(server.address, "a.png") as file:
        assert file.read() == b"x" * 300
        assert file.fileno() > 0


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://127.0.0.1/a\nb.png", "control characters"),
        ("http://127.0.0.1/\x1b[31m.png", "control characters"),
        ("http://ann:secret@127.0.0.1/a.png", "passwords aren't sent"),
        ("https://secret@127.0.0.1/a.png", "passwords aren't sent"),
        ("ftp://127.0.0.1/a.png", "can't fetch from ftp://"),
        ("javascript\x1b://a", "can't fetch from"),
        ("://", "can't fetch from"),
        ("file://elsewhere.org/a.png", "a file on another machine"),
        ("file://[", "malformed, or a file on another machine"),
        ("file:///a%00b", "null"),
        ("http://\udc80/a.png", "can't be reached"),
    ],
)
def test_addresses_that_are_refused(address, says):
    message = error_of(address)
    assert says in message
    assert "ann:secret" not in message


@pytest.mark.parametrize("answer", [b"", HEADER + b"Content-Length: 300\r\n\r\n"])
def test_a_download_that_is_not_wanted_any_more(answer):
    """It ends at once, and not after the limits, which are minutes here."""

    def begin_only(server):
        yield answer
        asked.set()
        server.hung_up.wait(60)

    asked = threading.Event()
    server = Server(begin_only)
    with contextlib.closing(server.listening):
        with contextlib.suppress(KeyboardInterrupt), detector._pool() as (pool, stopped):
            future = pool.submit(addresses.fetch, server.address, "a.png", stopped)
            assert asked.wait(30)
            raise KeyboardInterrupt
        assert str(future.exception()) == "a.png: stopped before it was here"
        server.hung_up.set()
