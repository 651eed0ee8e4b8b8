"""`python -m verifying`: the steps of `deploy/jetson/verify.sh`."""

from __future__ import annotations

from verifying.commands import verify

if __name__ == "__main__":
    verify(prog_name="verifying")
