"""Addresses at which no cluster is: an error in seconds, without any cluster."""

from __future__ import annotations

import importlib
import socket
import threading

import pytest

from tlx.errors import ResourceError, UsageError
from tlx.lab.engines import cluster

ENGINES = {"ray": ("_connect", "{}"), "dask": ("_connected", "tcp://{}")}


@pytest.fixture(params=ENGINES)
def connect(request, monkeypatch):
    """What connects to HOST:PORT; the engine's own client would try for up to a minute."""
    module = importlib.import_module(f"tlx.lab.engines.{request.param}")
    monkeypatch.delenv("RAY_USE_TLS", raising=False)

    def never(*_, **__):
        pytest.fail("the engine's own client is asked")

    if request.param == "ray":
        monkeypatch.setattr(module.ray, "init", never)
    else:
        monkeypatch.setattr(module.distributed, "Client", never)
    name, form = ENGINES[request.param]
    return lambda place: getattr(module, name)(form.format(place))


@pytest.fixture
def listening():
    """A socket that takes connections; it is never read from."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def place_of(server):
    return "{}:{}".format(*server.getsockname())


def refused(connect, place):
    with pytest.raises(ResourceError) as caught:
        connect(place)
    assert caught.value.code == "no-cluster"
    assert place in caught.value.what
    assert "give --address as the cluster prints it" in caught.value.remedy
    return caught.value.what


def test_a_closed_port_is_an_error_at_once(connect, listening):
    place = place_of(listening)
    listening.close()
    assert "refused" in refused(connect, place)


def test_a_port_that_never_answers_is_an_error_in_time(connect, listening, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_S", 0.2)
    assert "no answer within 3.2 s" in refused(connect, place_of(listening))


def test_a_port_of_something_else_is_an_error(connect, listening):
    """It hangs up."""

    def hang_up():
        listening.accept()[0].close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    refused(connect, place_of(listening))
    thread.join()


def test_a_name_that_is_looked_up_for_ever_is_an_error_in_time(connect, monkeypatch):
    is_over = threading.Event()

    def look_up(*_, **__):
        is_over.wait()
        raise OSError("the test is over")

    monkeypatch.setattr(cluster, "REACH_S", 0.1)
    monkeypatch.setattr(cluster, "ANSWER_S", 0.1)
    monkeypatch.setattr(cluster.socket, "create_connection", look_up)
    assert "no answer within 0.2 s" in refused(connect, "slow.example:1")
    is_over.set()


def test_a_name_that_is_none_is_an_error(connect):
    refused(connect, "no-such-host.invalid:6379")


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "127.0.0.1", "127.0.0.1:x"])
def test_an_address_of_another_form_is_refused_without_a_connection(monkeypatch, address):
    from tlx.lab.engines import ray

    monkeypatch.setattr(cluster.socket, "create_connection", None)
    with pytest.raises(UsageError, match="--address"):
        ray._connect(address)


def test_what_answers_is_let_through(listening):
    """As a head does: a greeting, and an answer to it."""
    greeting = []

    def answer():
        connection, _ = listening.accept()
        with connection:
            greeting.append(connection.recv(5))
            connection.sendall(b"\0")

    thread = threading.Thread(target=answer)
    thread.start()
    cluster.knock(*listening.getsockname(), b"hello")
    thread.join()
    assert greeting == [b"hello"]
