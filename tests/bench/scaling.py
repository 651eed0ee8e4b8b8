"""How the Kubernetes manifests would scale: pods over time, requests lost, what waiting there is. Prints two tables.

The first: a real service, callers that ask without a pause, and the mean in flight that the scaler's own query finds in
its real `/metrics`, beside how many callers there were. Little's law says that they agree.

The second: simulated pods under several loads, counted by the same query and scaled by the formula, the policies and
the bounds of the manifests, as Kubernetes' documents have them. Real are the query and the numbers of the manifests. A
pod serves as many requests at once as it has cores, the others wait; a proxy gives each request to the one of two pods
that has fewer in flight; a pod is there `--start-s` after it was asked for; one that goes is asked for `NOTICE_S` more,
and has what is left of its grace. Who is refused asks again, as `Retry-After` says.

python -m tests.bench.scaling --plot scaling.png
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from jetface.settings import Settings
from tests.support.drawn import PEOPLE, draw_portrait, encode
from tests.support.manifests import K8S, find, render
from tests.support.promql import History
from tests.support.server import running_server

SYNC_S = 15.0
"""How often the HPA looks: kube-controller-manager's default. Prometheus scrapes as often, by the ServiceMonitor."""

TOLERANCE = 0.1
"""Within which of the target the HPA does nothing: kube-controller-manager's default."""

NOTICE_S = 6.0
"""How long a pod that goes is still asked: what CoreDNS lets a name be kept, and Envoy's look-up."""

CORES = 2
"""Of a pod, as the overlay for CPUs has it."""

MAX_IN_FLIGHT = Settings.model_fields["max_in_flight"].default
NAMESPACE = {"namespace": "jetface"}


@dataclass(frozen=True, slots=True)
class Speed:
    """What a simulated pod does: requests a second at most, and how many of them at once."""

    requests_per_s: float
    cores: int

    @property
    def service_s(self) -> float:
        """Seconds that a request takes on a core."""
        return self.cores / self.requests_per_s


class Scaler:
    """The HPA that KEDA makes of the ScaledObject, and its two triggers.

    Source: kubernetes.io, "Horizontal Pod Autoscaling", algorithm details and configurable scaling behaviour.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._least, self._most = int(spec["minReplicaCount"]), int(spec["maxReplicaCount"])
        self._behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        self._triggers = spec["triggers"]
        self._wanted: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()

    def decide(self, history: History, at_s: float, replicas: int, num_ready: int) -> int:
        """Return how many pods there are to be now."""
        wanted = []
        for trigger in self._triggers:
            value = history.value(trigger["metadata"]["query"], at_s)
            if value is None:
                # A metric that cannot be had keeps the others from taking pods away.
                wanted.append(replicas)
                continue
            target = float(trigger["metadata"]["threshold"])
            is_mean = trigger["metricType"] == "AverageValue"
            ratio = value / (target * replicas) if is_mean else value / target
            count = math.ceil(value / target) if is_mean else math.ceil(ratio * num_ready)
            wanted.append(replicas if abs(ratio - 1) <= TOLERANCE else count)
        decided = self._limit(at_s, replicas, self._stabilize(at_s, replicas, max(wanted)))
        if decided != replicas:
            self._changes.append((at_s, decided - replicas))
        return decided

    def _stabilize(self, at_s: float, replicas: int, wanted: int) -> int:
        up_s = self._behavior["scaleUp"]["stabilizationWindowSeconds"]
        down_s = self._behavior["scaleDown"]["stabilizationWindowSeconds"]
        self._wanted.append((at_s, wanted))
        while self._wanted[0][0] < at_s - max(up_s, down_s):
            self._wanted.popleft()
        at_least = min(count for t, count in self._wanted if t >= at_s - up_s)
        at_most = max(count for t, count in self._wanted if t >= at_s - down_s)
        return min(max(replicas, at_least), at_most)

    def _limit(self, at_s: float, replicas: int, wanted: int) -> int:
        while self._changes and self._changes[0][0] < at_s - 1800:
            self._changes.popleft()

        def bound(direction: str, sign: int) -> int:
            bounds: list[int] = []
            for policy in self._behavior[direction]["policies"]:
                since = at_s - policy["periodSeconds"]
                before = replicas - sum(change for t, change in self._changes if t > since and change * sign > 0)
                if policy["type"] == "Pods":
                    bounds.append(before + sign * int(policy["value"]))
                else:
                    share = before * (1 + sign * policy["value"] / 100)
                    bounds.append(math.ceil(share) if sign > 0 else math.floor(share))
            return max(bounds) if sign > 0 else min(bounds)

        if wanted > replicas:
            wanted = min(wanted, max(replicas, bound("scaleUp", 1)))
        elif wanted < replicas:
            wanted = max(wanted, min(replicas, bound("scaleDown", -1)))
        return max(self._least, min(self._most, wanted))


@dataclass(slots=True)
class SimulatedPod:
    """A pod: when each core is free, when each request that it has will be answered, and what `/metrics` would say."""

    ready_s: float
    cores: list[float]
    finishing: list[tuple[float, float]] = field(default_factory=list)
    last_asked_s: float = math.inf
    seconds: float = 0.0
    refused: int = 0
    answered: int = 0

    def advance(self, now: float) -> None:
        """Answer what is to be answered by now."""
        while self.finishing and self.finishing[0][0] <= now:
            finished, took = heapq.heappop(self.finishing)
            del finished
            self.seconds += took
            self.answered += 1

    def take(self, now: float, service_s: float) -> float | None:
        """Return when a request will be answered, or None where it is refused."""
        self.advance(now)
        if len(self.finishing) >= MAX_IN_FLIGHT:
            self.refused += 1
            return None
        begin = max(now, self.cores[0])
        end = begin + service_s
        heapq.heapreplace(self.cores, end)
        heapq.heappush(self.finishing, (end, end - now))
        return end


@dataclass(slots=True)
class Outcome:
    """What came of a load."""

    num_requests: int = 0
    num_refused: int = 0
    num_lost: int = 0
    waits_s: list[float] = field(default_factory=list)
    pods: list[tuple[float, int]] = field(default_factory=list)

    def row(self, name: str, length_s: float, needed: float) -> str:
        """Return a row of the table; `needed` is the pods that the mean load fills."""
        counts = np.array([count for _, count in self.pods])
        changes = int(np.count_nonzero(np.diff(counts)))
        p50, p99, longest = np.percentile(self.waits_s, [50, 99, 100])
        return (
            f"| {name} | {length_s / 3600:.1f} | {self.num_requests} "
            f"| {counts.min()} / {counts.mean():.1f} / {counts.max()} "
            f"| {needed:.1f} | {changes} | {self.num_refused / self.num_requests:.3f} | {self.num_lost} "
            f"| {p50:.2f} / {p99:.2f} / {longest:.1f} |"
        )


@dataclass(frozen=True, slots=True)
class Load:
    """Requests a second over time, in units of what one pod can do."""

    name: str
    length_s: float
    pods_filled: Callable[[float], float]


LOADS = (
    Load("steady, 3 pods full", 3600, lambda t: 3 + 0 * t),
    Load("spike, 1 to 10 and back after 10 min", 3600, lambda t: 10.0 if 1200 <= t < 1800 else 1.0),
    Load("slow growth, 1 to 12", 3 * 3600, lambda t: 1 + 11 * t / (3 * 3600)),
    Load("flapping, 2 and 6 by turns of 2 min", 3600, lambda t: 6.0 if int(t / 120) % 2 else 2.0),
    Load("a day, night 0.3, noon 8", 24 * 3600, lambda t: 0.3 + 7.7 * math.sin(math.pi * t / 86400) ** 4),
)


def arrivals(load: Load, speed: Speed, rng: random.Random) -> Iterator[float]:
    """Yield when requests come: a Poisson process whose rate is that of each second."""
    for second in range(int(load.length_s)):
        now = float(second)
        rate = load.pods_filled(now) * speed.requests_per_s
        while (now := now + rng.expovariate(rate)) < second + 1:
            yield now


def simulate(load: Load, speed: Speed, spec: Mapping[str, Any], *, start_s: float, grace_s: float) -> Outcome:
    """Let a load come, and the scaler follow it."""
    rng = random.Random(1)
    scaler, history, outcome = Scaler(spec), History(), Outcome()
    pods = [SimulatedPod(0.0, [0.0] * speed.cores) for _ in range(max(2, math.ceil(load.pods_filled(0) / 0.7)))]
    going: list[SimulatedPod] = []
    again: list[tuple[float, float, int]] = []
    coming = arrivals(load, speed, rng)
    ids = itertools.count()
    next_arrival = next(coming, math.inf)
    next_sync = SYNC_S
    while next_arrival < math.inf or again:
        now = min(next_arrival, again[0][0] if again else math.inf)
        while next_sync <= now:
            _scrape(history, next_sync, [*pods, *going])
            num_ready = sum(pod.ready_s <= next_sync for pod in pods)
            wanted = scaler.decide(history, next_sync, len(pods), num_ready)
            ready_s = next_sync + start_s
            pods += [SimulatedPod(ready_s, [ready_s] * speed.cores) for _ in range(wanted - len(pods))]
            for pod in pods[wanted:]:
                pod.last_asked_s = next_sync + NOTICE_S
                going.append(pod)
            del pods[wanted:]
            for pod in [pod for pod in going if next_sync > pod.last_asked_s - NOTICE_S + grace_s]:
                pod.advance(pod.last_asked_s - NOTICE_S + grace_s)
                outcome.num_lost += len(pod.finishing)
                going.remove(pod)
            outcome.pods.append((next_sync, len(pods) + len(going)))
            next_sync += SYNC_S
        if now == next_arrival:
            began = now
            outcome.num_requests += 1
            next_arrival = next(coming, math.inf)
        else:
            _, began, _ = heapq.heappop(again)
        asked = [pod for pod in pods if pod.ready_s <= now] + [pod for pod in going if now < pod.last_asked_s]
        one, other = rng.choice(asked), rng.choice(asked)
        one.advance(now)
        other.advance(now)
        pod = min(one, other, key=lambda pod: len(pod.finishing))
        if (end := pod.take(now, speed.service_s)) is None:
            outcome.num_refused += 1
            heapq.heappush(again, (now + 1 + rng.random(), began, next(ids)))
        else:
            outcome.waits_s.append(end - began)
    return outcome


def _scrape(history: History, at_s: float, pods: list[SimulatedPod]) -> None:
    for pod in pods:
        if pod.ready_s <= at_s:
            pod.advance(at_s)
            target = {**NAMESPACE, "pod": str(id(pod))}
            history.add(
                at_s,
                target,
                [
                    ("jetface_request_seconds_sum", {}, pod.seconds),
                    ("jetface_requests_total", {}, float(pod.answered + pod.refused)),
                    ("jetface_refusals_total", {"code": "queue_full"}, float(pod.refused)),
                ],
            )


def measure(query: str, seconds: float) -> list[str]:
    """Start a service; return a row for each number of callers."""
    body = encode(draw_portrait(PEOPLE[0]), ".jpg")
    rows = []
    settings = {"DET_MODEL": "starter_det", "REC_MODEL": "starter_rec", "MODEL_PRELOAD": "1"}
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder), settings) as server:
        server.wait_until_ready(120)
        for num_callers in (1, 2, 4, 8, 16, 32):
            history = History()
            _ask(server.url, body, num_callers, 0.5)
            began = time.monotonic()
            history.scrape(0, NAMESPACE, httpx.get(f"{server.url}/metrics", trust_env=False).text)
            took = _ask(server.url, body, num_callers, seconds)
            length_s = time.monotonic() - began
            history.scrape(length_s, NAMESPACE, httpx.get(f"{server.url}/metrics", trust_env=False).text)
            # Over what was measured, and not a minute.
            found = history.value(query.replace("[1m]", f"[{math.ceil(length_s) + 1}s]"), length_s) or 0.0
            in_flight = found * (math.ceil(length_s) + 1) / length_s
            rate = len(took) / length_s
            p50, p99 = np.percentile(took, [50, 99]) * 1000
            rows.append(f"| {num_callers} | {in_flight:.2f} | {rate:.1f} | {p50:.0f} / {p99:.0f} |")
    return rows


def _ask(url: str, body: bytes, num_callers: int, seconds: float) -> list[float]:
    """Return what each request took of callers that ask without a pause for so long."""
    took: list[float] = []
    end = time.monotonic() + seconds

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            while (began := time.monotonic()) < end:
                client.post("/extract", content=body, headers={"content-type": "image/jpeg"}).raise_for_status()
                took.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask) for _ in range(num_callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def plot(path: Path, outcomes: list[tuple[Load, Outcome]]) -> None:
    """Draw pods and what the load fills, one below the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.2 * len(outcomes)), layout="constrained")
    for axes, (load, outcome) in zip(figure.subplots(len(outcomes)), outcomes, strict=True):
        times = np.array([t for t, _ in outcome.pods])
        axes.step(times / 60, [count for _, count in outcome.pods], where="post", label="pods")
        axes.plot(times / 60, [load.pods_filled(t) for t in times], label="pods that the load fills")
        axes.set(title=load.name, xlabel="minutes", ylim=(0, None))
        axes.legend(loc="upper right")
    figure.savefig(path)


def main() -> None:
    """Measure, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of each row of the first table")
    parser.add_argument("--start-s", type=float, default=30, help="from asking for a pod until it is ready")
    parser.add_argument("--rate", type=float, default=20, help="requests/s of a simulated pod")
    parser.add_argument("--plot", type=Path, help="a picture of pods over time")
    args = parser.parse_args()
    manifests = render(K8S / "overlays/cpu")
    spec = find(manifests, "ScaledObject", "jetface")["spec"]
    pod = find(manifests, "Deployment", "jetface")["spec"]["template"]["spec"]
    write = sys.stdout.write
    rows = measure(spec["triggers"][0]["metadata"]["query"].replace('{namespace="jetface"}', ""), args.seconds)
    head = "| callers | in flight by /metrics | requests/s | p50 / p99 ms |\n|---|---|---|---|\n"
    write(head + "\n".join(rows) + "\n\n")
    speed = Speed(args.rate, CORES)
    write(f"a pod: {speed.requests_per_s:.0f} requests/s, {speed.cores} at once; there after {args.start_s:.0f} s\n\n")
    write(
        "| load | hours | requests | pods least / mean / most | filled by the mean load | changes | refusals a request "
        "| lost | wait p50 / p99 / longest s |\n|---|---|---|---|---|---|---|---|---|\n"
    )
    outcomes = []
    for load in LOADS:
        outcome = simulate(load, speed, spec, start_s=args.start_s, grace_s=pod["terminationGracePeriodSeconds"])
        needed = sum(load.pods_filled(t) for t in range(int(load.length_s))) / load.length_s
        write(outcome.row(load.name, load.length_s, needed) + "\n")
        sys.stdout.flush()
        outcomes.append((load, outcome))
    if args.plot:
        plot(args.plot, outcomes)


if __name__ == "__main__":
    main()
