"""The toolkit of this machine, as a building process finds it: the same that the service found at its start."""

from __future__ import annotations

from jetface.backends.attempts import Probes, try_tensorrt
from jetface.backends.engines.kit import EngineKit
from jetface.backends.faults import Fault
from jetface.errors import BackendUnavailableError

FACTORY = f"{__name__}:open_kit"
"""Import path for a job."""


def open_kit() -> EngineKit:
    """Return TensorRT.

    Raises:
        BackendUnavailableError: It cannot be had; says why and what to do.
    """
    found = try_tensorrt(Probes(), is_required=True)
    if isinstance(found, Fault):
        raise BackendUnavailableError(f"Engines need TensorRT and a GPU. {found.sentence}")
    return found
