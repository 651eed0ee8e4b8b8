"""What a check of the machine has found: what, why it matters, what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

STARTUP_FAILURE = 3
"""Exit code of a service that cannot start; of `serve --dry-run`, `doctor` and `doctor --preflight` where it could not.
uvicorn's own: a worker that ends so is not started once more. Source: uvicorn, `config.STARTUP_FAILURE`."""


class Severity(str, Enum):
    """How bad a finding is; the worst first."""

    STOP = "stop"
    """The service would not start, or would crash."""
    WARNING = "warning"
    """It runs, slower or with less than was asked for."""
    NOTE = "note"
    """It runs well; worth knowing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    name: str
    """What programs tell findings by, such as `cores-offline`."""
    severity: Severity
    what: str
    """One sentence."""
    why: str
    """Why it matters, one sentence."""
    cure: str
    """The command that mends it, or what to do."""


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Return the findings in the order in which to mend them."""
    severities = list(Severity)
    return sorted(findings, key=lambda finding: severities.index(finding.severity))


def would_stop(findings: list[Finding]) -> bool:
    """Tell whether any of them would keep the service from running."""
    return any(finding.severity is Severity.STOP for finding in findings)
