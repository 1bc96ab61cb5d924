"""Tells systemd how the service is doing, where it asks for that (Type=notify): see sd_notify(3)."""

import os
import socket
from contextlib import suppress


def notify(state: str) -> None:
    """Send a state such as "READY=1" or "STOPPING=1"; does nothing where no service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.settimeout(1.0)
        out.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)
