"""A small cluster on one machine: services and a proxy on hosts in network namespaces, and stand-ins for the rest.

Real: `jetface serve` with the variables of the manifests, Envoy with their configuration and arguments, TCP, DNS.

Simulated, each as the manifests and Kubernetes' documents say:
    kubelet: starts a pod's process, probes it, starts it again when it ends, and stops it by sleep, SIGTERM, SIGKILL.
    controllers: how many pods there are, rolling updates, which addresses the headless name has.
    CoreDNS: answers with those addresses.
    kube-proxy: gives each new connection of a caller a proxy that is ready.
Left out: the scheduler (a pod goes to the host with the fewest), the node controller (what is seen is what happens
before Kubernetes notices, 40 s later), images, volumes, limits and policies.

Waits of the manifests are `SPEED` times shorter here, those of the proxy's end `PROXY_SPEED` times, and so is what they
are measured against. Envoy's waits for pods are as they are, and so is the time that a process has to end.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from typing_extensions import Self

from tests.support.envoy import require_envoy
from tests.support.manifests import K8S, environ_of, find, render
from tests.support.namespaces import Lan
from tests.support.server import service_environ
from tests.support.shared import REPOSITORY

SPEED: Final = 5.0
PROXY_SPEED: Final = 20.0
_END_S = 5.0
"""Of a pod's grace, what the manifests leave for its process to end once nothing is in flight."""
PATIENCE_S: Final = 90.0
"""Longest wait for something that happens in a moment on a machine at rest."""
LOG_DELAY_S: Final = 0.1
_PROMPT_LOG = ("--file-flush-interval-msec", str(round(LOG_DELAY_S * 1e3)))
"""Envoy writes its log every 10 s."""
_NAMES = "10.77.0.53"
_CALLERS = "10.77.0.1"
_TTL_S = 1
"""CoreDNS says 5 s, which is this at our speed."""


def wait_until(happened: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Return when `happened` does; raises `TimeoutError` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.02)


class Pod:
    """A process on a host, which a stand-in for the kubelet keeps as its container's manifest says.

    Args:
        lan: The hosts.
        host: Which of them.
        address: The pod's own, there already.
        command: What the container runs.
        environ: Its whole environment.
        spec: The pod's manifest.
        log: File for what it writes.
        speed: How many times shorter its waits are than the manifest says.
    """

    def __init__(
        self,
        lan: Lan,
        host: str,
        address: str,
        command: list[str],
        environ: Mapping[str, str],
        spec: Any,
        log: Path,
        *,
        speed: float,
    ) -> None:
        self.host = host
        self.address = address
        self.log = log
        self.ready_since: float | None = None
        self.num_starts = 0
        self.was_killed = False
        """Its grace was over before it had ended."""
        self._command = lan.command(host, *command)
        self._environ = dict(environ)
        (self._container,) = spec["containers"]
        self._speed = speed
        self._grace_s = (spec["terminationGracePeriodSeconds"] - _END_S) / speed + _END_S
        self._told_to_end = threading.Event()
        self.process = self._start()
        self._kubelet = lan.thread(host, self._keep)
        self._kubelet.start()

    @property
    def is_ready(self) -> bool:
        """Whether its address is given out."""
        return self.ready_since is not None and not self._told_to_end.is_set()

    def is_available(self, min_ready_s: float) -> bool:
        """Whether it has been ready for so long."""
        return self.is_ready and time.monotonic() - (self.ready_since or 0) >= min_ready_s

    def terminate(self) -> None:
        """Begin to end it, as `kubectl delete pod` does; returns at once."""
        self._told_to_end.set()

    def join(self) -> None:
        """Wait for the end."""
        self._kubelet.join(PATIENCE_S)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as stream:
            return subprocess.Popen(
                self._command, env=self._environ, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _keep(self) -> None:
        pause_s = 10 / self._speed  # CrashLoopBackOff
        while not self._told_to_end.is_set():
            self.num_starts += 1
            self._probe()
            self.ready_since = None
            if not self._told_to_end.is_set() and not self._told_to_end.wait(pause_s):
                pause_s *= 2
                self.process = self._start()
        self._end()

    def _probe(self) -> None:
        """Return when the process has ended, or is to."""
        readiness = self._container["readinessProbe"]
        failures = 0
        while not self._told_to_end.is_set() and self.process.poll() is None:
            if self._asks(readiness):
                failures = 0
                self.ready_since = self.ready_since or time.monotonic()
            else:
                failures += 1
                if failures >= readiness["failureThreshold"]:
                    self.ready_since = None
            # Until it is ready for the first time the kubelet asks more often than the period says.
            self._told_to_end.wait(readiness["periodSeconds"] / self._speed if self.ready_since else 0.2)

    def _asks(self, probe: Any) -> bool:
        (port,) = (each for each in self._container["ports"] if each["name"] == probe["httpGet"]["port"])
        connection = http.client.HTTPConnection(
            self.address, port["containerPort"], timeout=probe.get("timeoutSeconds", 1)
        )
        try:
            connection.request("GET", probe["httpGet"]["path"])
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _end(self) -> None:
        deadline = time.monotonic() + self._grace_s
        try:
            self.process.wait(self._container["lifecycle"]["preStop"]["sleep"]["seconds"] / self._speed)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.was_killed = True
        self.signal(signal.SIGKILL)
        self.process.wait()


class Cluster:
    """Three hosts, the Deployments of the manifests, and the names between them. A context manager.

    Args:
        folder: Where logs go; a short path, for a socket is below it.
        variables: Settings that a test machine needs over those of the manifests.
    """

    HOSTS = ("host-1", "host-2", "host-3")

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.pods: list[Pod] = []
        self.proxies: list[Pod] = []
        self._manifests = render(K8S / "overlays/cpu")
        self._variables = variables
        self._num_addresses = 0
        self._stopped = threading.Event()
        namespace = self._manifests[0]["metadata"].get("namespace", "jetface")
        self.lan = Lan(resolver=_NAMES, search=f"{namespace}.svc.cluster.local")

    def __enter__(self) -> Self:
        self.lan.__enter__()
        self.lan.add_host("names", _NAMES)
        self.lan.add_host("callers", _CALLERS)
        for host in (*self.HOSTS, "proxies"):
            self.lan.add_host(host)
        self.lan.thread("names", self._answer_names).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for each in (*self.pods, *self.proxies):
            each.terminate()
            each.signal(signal.SIGCONT)
            each.signal(signal.SIGKILL)
        for each in (*self.pods, *self.proxies):
            each.join()
        self.lan.__exit__()

    def deployment(self, name: str) -> Any:
        """Return the specification of a Deployment of the manifests."""
        return find(self._manifests, "Deployment", name)["spec"]

    def live(self) -> list[Pod]:
        """Return the pods of jetface that are not told to end, oldest first."""
        return [pod for pod in self.pods if not pod._told_to_end.is_set()]

    def scale(self, replicas: int) -> None:
        """Start pods and wait until they are ready, or begin to end the youngest."""
        live = self.live()
        for pod in live[replicas:]:
            pod.terminate()
        for _ in range(replicas - len(live)):
            self.start_pod({})
        wait_until(lambda: all(pod.is_ready for pod in self.live()), "all pods ready")

    def roll_out(self, variables: Mapping[str, str], timeout_s: float = PATIENCE_S) -> bool:
        """Replace every pod, as the Deployment's strategy says; whether that was done within `timeout_s`.

        Where it was not, things stay as they are, as after `progressDeadlineSeconds`.
        """
        spec = self.deployment("jetface")
        bounds, min_ready_s = spec["strategy"]["rollingUpdate"], spec["minReadySeconds"] / SPEED
        old = self.live()
        replicas = len(old)
        new: list[Pod] = []
        deadline = time.monotonic() + timeout_s
        while old or sum(pod.is_available(min_ready_s) for pod in new) < replicas:
            if time.monotonic() > deadline:
                return False
            if len(new) < replicas and len(old) + len(new) < replicas + bounds["maxSurge"]:
                new.append(self.start_pod(variables))
            num_available = sum(pod.is_available(min_ready_s) for pod in (*old, *new))
            if old and num_available > replicas - bounds["maxUnavailable"]:
                old.pop(0).terminate()
            time.sleep(0.05)
        return True

    def start_pod(self, variables: Mapping[str, str]) -> Pod:
        """Start a pod of jetface where there are the fewest."""
        host = min(self.HOSTS, key=lambda host: sum(pod.host == host for pod in self.live()))
        spec = self.deployment("jetface")["template"]["spec"]
        address = self._new_address(host)
        name = f"jetface-{self._num_addresses}"
        stated = environ_of(self._manifests, spec["containers"][0])
        for setting in ("SHUTDOWN_GRACE_S", "REQUEST_TIMEOUT_S"):
            stated[setting] = str(float(stated[setting]) / SPEED)
        environ = service_environ({**stated, **self._variables, "HOST": address, **variables})
        command = [str(REPOSITORY / "entrypoint.sh")]
        pod = Pod(self.lan, host, address, command, environ, spec, self.folder / f"{name}.log", speed=SPEED)
        self.pods.append(pod)
        return pod

    def start_proxy(self) -> Pod:
        """Start a proxy, with a host of its own, and wait until it is ready."""
        spec = self.deployment("proxy")["template"]["spec"]
        number = len(self.proxies) + 1
        host = f"proxy-{number}"
        address = f"10.77.100.{number}"
        self.lan.add_host(host, address)
        text = (K8S / "base/envoy.yaml").read_text(encoding="utf-8")
        for stated, here in (
            ("/tmp/admin.sock", str(self.folder / f"{number}.sock")),
            ("max_connection_duration: 20s", f"max_connection_duration: {20 / PROXY_SPEED}s"),
            # As REQUEST_TIMEOUT_S, which they follow.
            ("per_try_timeout: 33s", f"per_try_timeout: {33 / SPEED}s"),
            ("timeout: 70s", f"timeout: {70 / SPEED}s"),
        ):
            assert stated in text
            text = text.replace(stated, here)
        config = self.folder / f"envoy-{number}.yaml"
        config.write_text(text, encoding="utf-8")
        args = [arg.replace("/etc/envoy/envoy.yaml", str(config)) for arg in spec["containers"][0]["args"]]
        log = self.folder / f"proxy-{number}.log"
        proxy = Pod(
            self.lan, host, address, [require_envoy(), *args, *_PROMPT_LOG], os.environ, spec, log, speed=PROXY_SPEED
        )
        self.proxies.append(proxy)
        wait_until(lambda: proxy.is_ready, "the proxy is ready")
        return proxy

    def choices(self) -> list[dict[str, Any]]:
        """Return what the proxies wrote of each request that was answered; a line may be `LOG_DELAY_S` late."""
        found = []
        for proxy in self.proxies:
            lines = proxy.log.read_text(encoding="utf-8", errors="replace").splitlines()
            found += [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return found

    def proxies_cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds that each proxy which runs has taken, by its host."""
        running = [each for each in self.proxies if each.process.poll() is None]
        times = {each.host: psutil.Process(each.process.pid).cpu_times() for each in running}
        return {host: each.user + each.system for host, each in times.items()}

    def _new_address(self, host: str) -> str:
        self._num_addresses += 1
        address = f"10.77.{1 + self.HOSTS.index(host)}.{self._num_addresses}"
        self.lan.add_address(host, address)
        return address

    def _answer_names(self) -> None:
        """Answer each question for addresses with those of the pods that are ready, on port 53."""
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((_NAMES, 53))
        server.settimeout(0.2)
        while not self._stopped.is_set():
            try:
                question, caller = server.recvfrom(512)
            except TimeoutError:
                continue
            end = question.index(0, 12) + 5  # behind the name, its type and its class
            (kind,) = struct.unpack_from("!H", question, end - 4)
            is_ours = question[12:].startswith(b"\x0cjetface-pods\x07jetface")
            addresses = [pod.address for pod in self.pods if pod.is_ready] if is_ours and kind == 1 else []
            flags = 0x8580 if is_ours else 0x8583  # an answer of who knows; else that there is no such name
            records = b"".join(
                struct.pack("!HHHIH4s", 0xC00C, 1, 1, _TTL_S, 4, socket.inet_aton(address)) for address in addresses
            )
            server.sendto(
                question[:2] + struct.pack("!HHHHH", flags, 1, len(addresses), 0, 0) + question[12:end] + records,
                caller,
            )
        server.close()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request came to: an HTTP status, or what broke; when it was sent; how long it took."""

    outcome: int | str
    started_s: float
    took_s: float
    num_faces: int = 0


class Callers(AbstractContextManager["Callers"]):
    """Clients on a host of their own that ask for the faces of a picture, again and again, until the block ends.

    Each keeps its connection until it is told to close it, and never sends a request twice.

    Args:
        cluster: Whose proxies they ask.
        bodies: Bodies that they send in turn, each with one face.
        pause_s: How long each waits before a request: the machine has other things to do, such as to start pods.
        num_callers: How many there are.
    """

    def __init__(self, cluster: Cluster, bodies: list[bytes], *, pause_s: float, num_callers: int = 4) -> None:
        self.answers: list[Answer] = []
        self._cluster = cluster
        self._bodies = bodies
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._threads = [cluster.lan.thread("callers", self._ask) for _ in range(num_callers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a request hangs"

    def wait_for_more(self, count: int) -> None:
        """Return when `count` further requests were answered."""
        goal = len(self.answers) + count
        wait_until(lambda: len(self.answers) >= goal, f"{count} more answers")

    def lost(self) -> list[Answer]:
        """Return the requests that had another answer than 200 with one face."""
        return [answer for answer in self.answers if (answer.outcome, answer.num_faces) != (http.client.OK, 1)]

    def summary(self) -> str:
        """Say how many requests there were, how many were lost, and what they took."""
        took_ms = np.array([answer.took_s for answer in self.answers]) * 1000
        p50, p99, slowest = np.percentile(took_ms, [50, 99, 100])
        counts = f"{len(took_ms)} requests, {len(self.lost())} lost"
        return f"{counts}, p50 {p50:.0f} ms, p99 {p99:.0f} ms, slowest {slowest:.0f} ms"

    def _ask(self) -> None:
        number = 0
        connection: http.client.HTTPConnection | None = None
        while not self._stop.wait(self._pause_s):
            body = self._bodies[number % len(self._bodies)]
            number += 1
            started = time.monotonic()
            outcome: int | str
            num_faces = 0
            try:
                if connection is None:
                    ready = [proxy.address for proxy in self._cluster.proxies if proxy.is_ready]
                    connection = http.client.HTTPConnection(random.choice(ready), 8080, timeout=PATIENCE_S)
                connection.request("POST", "/extract", body, {"content-type": "image/jpeg"})
                answer = connection.getresponse()
                text = answer.read()
                outcome = answer.status
                if outcome == http.client.OK:
                    num_faces = len(json.loads(text)["data"][0]["faces"])
                if answer.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                outcome = repr(error)
                if connection is not None:
                    connection.close()
                connection = None
            self.answers.append(Answer(outcome, started, time.monotonic() - started, num_faces))
        if connection is not None:
            connection.close()


@contextmanager
def calling(cluster: Cluster, bodies: list[bytes], what: str, *, pause_s: float = 0.1) -> Iterator[Callers]:
    """Let callers ask before, while and after something happens to the cluster, and print what they saw."""
    before_s = cluster.proxies_cpu_s()
    with Callers(cluster, bodies, pause_s=pause_s) as callers:
        callers.wait_for_more(20)
        yield callers
        callers.wait_for_more(20)
    if callers.lost():
        print(*(choice for choice in cluster.choices() if choice["status"] != http.client.OK), sep="\n")  # noqa: T201
    after_s = cluster.proxies_cpu_s()
    took = ""
    if after_s.keys() == before_s.keys():
        proxy_ms = (sum(after_s.values()) - sum(before_s.values())) / len(callers.answers) * 1000
        took = f", {proxy_ms:.1f} ms of a proxy's CPU a request"
    print(f"{what}: {callers.summary()}{took}")  # noqa: T201 - what CI's reader wants to know of it
