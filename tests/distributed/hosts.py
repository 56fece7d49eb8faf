"""Two hosts on one machine: network namespaces joined by a pair of virtual interfaces. For root on Linux only."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from uuid import uuid4

NETWORK = "10.213.77"  # of the pair alone: nothing routes to it


@dataclass(frozen=True)
class Host:
    """A namespace with an address."""

    name: str
    address: str
    interface: str

    def command(self, *arguments: str) -> list[str]:
        """Return the command that runs `arguments` on this host."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def connect(self) -> None:
        """Give the interface its address."""
        name = self.interface
        for line in (f"addr replace {self.address}/24 dev {name}", f"link set {name} up", "link set lo up"):
            ip("-n", self.name, *line.split())

    def lose_power(self) -> None:
        """Cut the network, so that nobody is told, and kill every process of the host."""
        ip("-n", self.name, "link", "set", self.interface, "down")
        there = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True)
        for process in map(int, there.stdout.split()):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def environment(self) -> dict[str, str]:
        """Return the variables that bind gloo to the interface."""
        threads = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return os.environ | threads | {"GLOO_SOCKET_IFNAME": self.interface, "TP_SOCKET_IFNAME": self.interface}


def why_not() -> str | None:
    """Return why there can be no hosts here; None if there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the command ip"
    name = f"fastclr-{uuid4().hex[:6]}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespaces here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=False)
    return None


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make two hosts that reach each other and nobody else, and remove them."""
    tag = uuid4().hex[:5]
    hosts = tuple(Host(f"fastclr-{tag}-{i}", f"{NETWORK}.{i + 1}", f"fc{tag}{i}") for i in range(2))
    pair = [host.interface for host in hosts]
    try:
        for host in hosts:
            ip("netns", "add", host.name)
        ip("link", "add", pair[0], "type", "veth", "peer", "name", pair[1])
        for host in hosts:
            ip("link", "set", host.interface, "netns", host.name)
            host.connect()
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:  # their interfaces go with them
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, check=False)


def ip(*arguments: str) -> None:
    """Run the command ip."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
