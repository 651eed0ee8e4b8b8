"""`jetface serve --dry-run` looks for what is installed, in a process apart."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from jetface.cli.main import main


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PORT": "1234", "HOST": "::1"}, "would listen on http://[::1]:1234, WORKERS=1\n"),
        ({"PORT": "1234", "WORKERS": "3"}, "would listen on http://0.0.0.0:1234, WORKERS=3\n"),
        ({"UDS": "/tmp/jetface-dry-run.sock"}, "would listen on unix:/tmp/jetface-dry-run.sock, WORKERS=1\n"),
    ],
)
def test_a_dry_run_says_where_it_would_listen(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, ["serve", "--dry-run"])
    assert (result.exit_code, result.stdout) == (0, said)
