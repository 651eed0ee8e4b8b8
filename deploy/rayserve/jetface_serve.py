"""jetface on Ray Serve, for fleets without Kubernetes: docs/scale.md says what is better elsewhere.

serve run --working-dir deploy/rayserve jetface_serve:application

Each replica is one whole service with its own models; settings are the environment of the nodes.
"""

from fastapi import FastAPI
from ray import serve

from jetface.main import create_app
from jetface.settings import read_settings


def build() -> FastAPI:
    """Return the service, in the replica's own process."""
    return create_app(read_settings())


# As many requests as MAX_IN_FLIGHT lets in: jetface queues and refuses by itself. The cores are those of CPU_THREADS.
@serve.deployment(
    num_replicas=2,
    max_ongoing_requests=64,
    ray_actor_options={"num_cpus": 1},
    graceful_shutdown_wait_loop_s=1,
    graceful_shutdown_timeout_s=20,
)
@serve.ingress(build)
class Jetface:
    """A replica: all routes are the application's."""


application = Jetface.bind()
