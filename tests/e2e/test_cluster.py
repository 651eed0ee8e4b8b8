"""What the Kubernetes manifests promise, on hosts in network namespaces.

`tests/support/cluster.py` says what of it is simulated. `pytest -rP tests/e2e/test_cluster.py` prints requests, losses
and latencies of each.
"""

from __future__ import annotations

import http.client
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.cluster import LOG_DELAY_S, Cluster, Pod, calling, wait_until
from tests.support.drawn import PEOPLE, draw_portrait, encode
from tests.support.envoy import require_envoy
from tests.support.manifests import require_kubectl
from tests.support.namespaces import require_namespaces

REPLICAS = 3
PROBES_S = 6.0
"""Longest that Envoy needs to find a silent pod: two probes, each 2 s after the one before and given up after 2 s."""


@pytest.fixture(scope="module")
def bodies() -> list[bytes]:
    """One face each; of the second only a proxy that keeps whole bodies can send all of it again."""
    portrait = encode(draw_portrait(PEOPLE[0]), ".jpg")
    return [portrait, portrait + bytes(3_000_000)]


@pytest.fixture(scope="module")
def running_cluster() -> Iterator[Cluster]:
    require_kubectl()
    require_envoy()
    require_namespaces()
    with tempfile.TemporaryDirectory(prefix="jf") as name:
        folder = Path(name)
        variables = {
            "MODELS_DIR": str(folder / "models"),
            "MODEL_MIRROR": "",
            "DET_MODEL": "starter_det",
            "REC_MODEL": "starter_rec",
            # `auto` measures first.
            "BACKEND": "onnxruntime",
            # Cheap: what is tested is who is asked.
            "CPU_THREADS": "1",
            "MAX_SIZE": "320,320",
        }
        with Cluster(folder, variables) as cluster:
            cluster.scale(REPLICAS)
            cluster.start_proxy()
            yield cluster


@pytest.fixture
def cluster(running_cluster: Cluster) -> Cluster:
    """Three pods that are ready, whatever the test before did."""
    for host in Cluster.HOSTS:
        running_cluster.lan.mend(host)
    running_cluster.scale(REPLICAS)
    return running_cluster


def asked(cluster: Cluster, since: int = 0) -> Counter[str]:
    """Return how many requests each pod answered, by its address, of those after the first `since`."""
    return Counter(str(choice["pod"]).partition(":")[0] for choice in cluster.choices()[since:])


def test_a_rolling_update_loses_nothing(cluster: Cluster, bodies: list[bytes]) -> None:
    before = cluster.live()
    with calling(cluster, bodies, "rolling update of three pods") as callers:
        assert cluster.roll_out({"LOG_LEVEL": "DEBUG"})
        for pod in before:
            pod.join()
    assert callers.lost() == []
    assert not any(pod.was_killed for pod in before)
    assert [pod.process.returncode for pod in before] == [0, 0, 0]
    assert len(cluster.live()) == REPLICAS


def test_scaling_in_and_out_loses_nothing(cluster: Cluster, bodies: list[bytes]) -> None:
    *_, last = cluster.live()
    with calling(cluster, bodies, "from three pods to two and back") as callers:
        cluster.scale(REPLICAS - 1)
        last.join()
        assert last.process.returncode == 0
        cluster.scale(REPLICAS)
        newest = cluster.live()[-1]
        wait_until(lambda: asked(cluster)[newest.address] > 0, "the new pod is asked")
    assert callers.lost() == []


def test_killed_pods_lose_nothing_and_come_back(cluster: Cluster, bodies: list[bytes]) -> None:
    """SIGKILL of two of three while requests are in them; the kubelet starts them again."""
    killed = cluster.live()[:2]
    with calling(cluster, bodies, "kill -9 of two of three pods", pause_s=0) as callers:
        starts = [pod.num_starts for pod in killed]
        for pod in killed:
            pod.signal(signal.SIGKILL)
        wait_until(lambda: [pod.num_starts - 1 for pod in killed] == starts, "they are started again")
        wait_until(lambda: all(pod.is_ready for pod in killed), "they are ready again")
    assert callers.lost() == []


def test_hosts_that_are_cut_off_lose_nothing(cluster: Cluster, bodies: list[bytes]) -> None:
    """Packets of two of three are dropped, nobody is told: what waits there is sent to the third."""
    cut = cluster.live()[:2]
    with calling(cluster, bodies, "two of three hosts cut off and back", pause_s=0) as callers:
        for pod in cut:
            cluster.lan.cut(pod.host)
        time.sleep(PROBES_S)
        callers.wait_for_more(50)
        for pod in cut:
            cluster.lan.mend(pod.host)
        before = len(cluster.choices())
        back = {pod.address for pod in cut}
        wait_until(lambda: asked(cluster, before).keys() >= back, "those that are back are asked again")
    assert callers.lost() == []
    assert max(answer.took_s for answer in callers.answers) < 2 * PROBES_S


def test_a_pod_that_hangs_is_left_out(cluster: Cluster, bodies: list[bytes]) -> None:
    """It takes connections and answers nothing, as a process does that stands still."""
    pod = cluster.live()[0]
    with calling(cluster, bodies, "a pod that stands still", pause_s=0) as callers:
        pod.signal(signal.SIGSTOP)
        time.sleep(PROBES_S)
        callers.wait_for_more(50)
        pod.signal(signal.SIGCONT)
    assert callers.lost() == []


def test_a_slow_pod_is_asked_less(cluster: Cluster, bodies: list[bytes]) -> None:
    """Who has requests in flight gets fewer; it is not taken out, as it answers."""
    slow, *others = cluster.live()
    stop = threading.Event()

    def slow_down() -> None:
        while not stop.is_set():
            slow.signal(signal.SIGSTOP)
            stop.wait(0.2)
            slow.signal(signal.SIGCONT)
            stop.wait(0.02)

    thread = threading.Thread(target=slow_down)
    with calling(cluster, bodies, "a pod with a tenth of its time", pause_s=0) as callers:
        thread.start()
        try:
            time.sleep(5 * LOG_DELAY_S)  # what is written from now on was asked while it is slow
            before = len(cluster.choices())
            callers.wait_for_more(120)
        finally:
            stop.set()
            thread.join()
            slow.signal(signal.SIGCONT)
    assert callers.lost() == []
    found = asked(cluster, before)
    assert found[slow.address] < 0.5 * min(found[pod.address] for pod in others)


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        pytest.param({"MAX_SIZE": "1"}, "does not start", id="does-not-start"),
        pytest.param({"DET_MODEL": "det_10g", "MODEL_DOWNLOAD": "0"}, "never gets ready", id="never-ready"),
    ],
)
def test_a_bad_rollout_stops_by_itself(
    cluster: Cluster, bodies: list[bytes], variables: dict[str, str], why: str
) -> None:
    """One pod of the new kind is there and takes no request; every old one serves on."""
    before = cluster.live()
    with calling(cluster, bodies, f"a rollout that {why}") as callers:
        assert not cluster.roll_out(variables, timeout_s=6)
        assert [pod for pod in before if pod in cluster.live()] == before
        (bad,) = (pod for pod in cluster.live() if pod not in before)
        assert not bad.is_ready
        bad.terminate()
    assert callers.lost() == []
    assert asked(cluster)[bad.address] == 0


def test_bodies_do_not_take_more_memory_than_the_proxy_has(cluster: Cluster, bodies: list[bytes]) -> None:
    """160 bodies of 15 MB at once, which is more than it may hold: some are refused or cut off, and it serves on."""
    proxy = cluster.proxies[-1]
    limit = cluster.deployment("proxy")["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert limit == "3Gi"
    statuses: list[int | None] = []
    sizes = [0]
    over = threading.Event()

    def send() -> None:
        connection = http.client.HTTPConnection(proxy.address, 8080, timeout=60)
        try:
            connection.request("POST", "/extract", bytes(15_000_000), {"content-type": "image/jpeg"})
            statuses.append(connection.getresponse().status)
        except OSError:
            statuses.append(None)
        finally:
            connection.close()

    def watch() -> None:
        while not over.wait(0.05):
            sizes.append(psutil.Process(proxy.process.pid).memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    senders = [cluster.lan.thread("callers", send) for _ in range(160)]
    try:
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    finally:
        over.set()
        watcher.join()
    print(f"160 bodies of 15 MB: {Counter(statuses)}, {max(sizes) / 2**20:.0f} MiB")  # noqa: T201 - for CI's reader
    assert len(statuses) == 160
    assert max(sizes) < 3 * 2**30
    with calling(cluster, bodies, "after that") as callers:
        pass
    assert callers.lost() == []


def test_a_rolling_update_of_the_proxy_loses_nothing(cluster: Cluster, bodies: list[bytes]) -> None:
    """Envoy ends at SIGTERM with what it has in hand: by then its callers are with the new one."""
    with calling(cluster, bodies, "rolling update of the proxy") as callers:
        old: Pod = cluster.proxies[-1]
        cluster.start_proxy()
        old.terminate()
        old.join()
    assert callers.lost() == []
    assert not old.was_killed


def test_a_proxy_without_a_pod_says_so_at_once(cluster: Cluster, bodies: list[bytes]) -> None:
    """503 in jetface's envelope, with when to come back; and the first pod that is ready is asked."""
    found: list[tuple[int, str | None, str]] = []
    proxy = cluster.proxies[-1]

    def ask() -> None:
        connection = http.client.HTTPConnection(proxy.address, 8080, timeout=30)
        headers = {"content-type": "image/jpeg", "x-request-id": "mine-1"}
        connection.request("POST", "/extract", bodies[0], headers)
        answer = connection.getresponse()
        found.append((answer.status, answer.headers["retry-after"], answer.read().decode()))
        connection.close()

    def answered() -> int:
        thread = cluster.lan.thread("callers", ask)
        thread.start()
        thread.join()
        return found[-1][0]

    cluster.scale(0)
    wait_until(lambda: answered() == 503, "nobody is left")
    status, retry_after, text = found[-1]
    assert (status, retry_after) == (503, "1")
    assert '"code":"no_server"' in text
    assert '"request_id":"mine-1"' in text
    cluster.scale(1)
    wait_until(lambda: answered() == 200, "the first pod is asked")
