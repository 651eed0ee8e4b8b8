"""Run a command in a network of its own that leads nowhere, and write down each packet that it sends.

    unshare -rn python tests/support/watched_network.py PACKETS COMMAND...

Every address is one of this machine there, so that a look-up or a connection is sent, and is seen, whatever name or
number it is for. A line of PACKETS is where one went: protocol, address, port. The command keeps this process's id.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

ETH_P_ALL = 3
SETTINGS = (
    "ip link set lo up",
    "ip route add local default dev lo",
    "ip -6 route add local default dev lo",
)
PR_SET_PDEATHSIG = 1


def describe(packet: bytes) -> str:
    """Say where a packet goes to."""
    version = packet[0] >> 4
    if version == 4:
        protocol, destination = packet[9], socket.inet_ntop(socket.AF_INET, packet[16:20])
        rest = packet[(packet[0] & 15) * 4 :]
    else:
        protocol, destination = packet[6], socket.inet_ntop(socket.AF_INET6, packet[24:40])
        rest = packet[40:]
    names = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}
    port = struct.unpack_from("!H", rest, 2)[0] if protocol in names else 0
    return f"{names.get(protocol, protocol)} {destination} {port}"


def watch(sniffer: socket.socket, packets: Path) -> None:
    """Write down what is sent, until the parent ends."""
    with packets.open("w", buffering=1) as file:
        while True:
            packet, (_, kind, direction, *_) = sniffer.recvfrom(65535)
            # Each packet is seen twice on a loopback, as it goes and as it comes.
            if kind in {0x0800, 0x86DD} and direction == socket.PACKET_OUTGOING:
                file.write(describe(packet) + "\n")


def main() -> None:
    """Set the network up, watch it in a child, become the command."""
    packets, *command = sys.argv[1:]
    for setting in SETTINGS:
        subprocess.run(setting.split(), check="-6" not in setting, stderr=subprocess.DEVNULL)
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    parent = os.getpid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            watch(sniffer, Path(packets))
    sniffer.close()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
