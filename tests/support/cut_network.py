"""A process that reaches nobody: what it tries to reach is noted."""

import socket

DOORS = (
    (socket.socket, "connect"),
    (socket.socket, "connect_ex"),
    (socket, "getaddrinfo"),
    (socket, "create_connection"),
)


def cut(monkeypatch):
    """Refuse every connection from now on; returns the list to which the addresses go."""
    tried = []

    def refuse(*args, **kwargs):
        tried.append(args)
        raise OSError("the network is cut")

    for owner, name in DOORS:
        monkeypatch.setattr(owner, name, refuse)
    return tried
