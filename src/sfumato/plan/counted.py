"""What a process has really sent, to hold the formulas of `traffic` against."""

import os
import socket
import struct
from collections.abc import Iterator

_ACKED = 120  # where Linux puts tcpi_bytes_acked in its struct tcp_info, since 4.1; what is sent again counts once


def bytes_sent() -> int | None:
    """Payload that this process's TCP connections have delivered so far, those to itself included.

    Gloo talks over these; NCCL, which does not, is not counted. A connection that is closed counts no more. None where
    the system does not tell (all but Linux).
    """
    if not hasattr(socket, "TCP_INFO") or not os.path.isdir("/proc/self/fd"):
        return None
    total = 0
    for connection in _connections():
        with connection:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            if len(info) < _ACKED + 8:
                return None
            total += struct.unpack_from("Q", info, _ACKED)[0]
    return total


def _connections() -> Iterator[socket.socket]:
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                found = socket.socket(fileno=os.dup(int(number)))
            else:
                continue
        except OSError:  # closed meanwhile
            continue
        if found.type == socket.SOCK_STREAM and found.family in (socket.AF_INET, socket.AF_INET6):
            yield found
        else:
            found.close()
