"""`jetface settings`: the effective table, and the documents that are generated from the settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from dotenv import dotenv_values

from jetface.cli.main import main
from jetface.cli.settings import TARGETS
from jetface.settings import Settings, variable_names
from tests.support.shared import REPOSITORY

VARIABLES = [variable_names(field)[0] for field in Settings.model_fields]


def run(*arguments: str) -> Result:
    """Run `jetface settings`."""
    return CliRunner().invoke(main, ["settings", *arguments])


class TestTable:
    """What is in force."""

    def test_every_variable_has_a_line(self) -> None:
        """Name, value and meaning of each."""
        lines = run().stdout.splitlines()
        assert [line.split()[0] for line in lines] == VARIABLES

    def test_what_the_environment_sets_is_marked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A star says that the value is not the built-in one; the old name counts for ours."""
        monkeypatch.setenv("DET_NAME", "det_500m")
        starred = [line.split()[:3] for line in run().stdout.splitlines() if line.startswith("*")]
        assert starred == [["*", "DET_MODEL", "det_500m"]]

    def test_secrets_are_masked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keys and the password of a mirror do not reach a terminal or a pasted report."""
        monkeypatch.setenv("API_KEYS", "hunter2,hunter3")
        monkeypatch.setenv("MODEL_MIRROR", "https://me:hunter4@models.example/faces")
        output = run().stdout
        assert "hunter" not in output
        assert "***,***" in output
        assert "https://***@models.example/faces" in output

    def test_a_bad_value_is_one_line_and_exit_code_2(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No traceback."""
        monkeypatch.setenv("PORT", "x")
        result = run()
        assert result.exit_code == 2
        assert result.stderr == "Error: PORT='x' is not allowed: integer from 1 to 65535\n"


class TestDocuments:
    """Generated texts and their committed copies."""

    def test_the_page_holds_the_table(self) -> None:
        """`jetface settings --markdown` stands between the markers of docs/settings.md, word for word."""
        page = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
        between = page.split("<!-- settings:begin -->\n")[1].split("<!-- settings:end -->")[0]
        assert between == run("--markdown").stdout

    def test_the_table_has_every_name(self) -> None:
        """Ours first, and those of InsightFace-REST that are accepted too."""
        table = run("--markdown").stdout
        for field in Settings.model_fields:
            for name in variable_names(field):
                assert f"`{name}`" in table

    @pytest.mark.parametrize("target", TARGETS)
    def test_env_files_are_as_generated(self, target: str) -> None:
        """`deploy/TARGET.env` is what `jetface settings --env TARGET` prints."""
        committed = (REPOSITORY / "deploy" / f"{target}.env").read_text(encoding="utf-8")
        assert committed == run("--env", target).stdout

    @pytest.mark.parametrize("target", TARGETS)
    def test_env_files_load(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: str) -> None:
        """Each holds every variable, and reading it gives the defaults with the target's own values."""
        path = tmp_path / "env"
        path.write_text(run("--env", target).stdout, encoding="utf-8")
        values = dotenv_values(path)
        assert list(values) == VARIABLES
        for name, value in values.items():
            monkeypatch.setenv(name, value or "")
        loaded = Settings()
        expected = Settings.model_validate(dict(TARGETS[target]))
        assert loaded == expected

    def test_no_other_target(self) -> None:
        """A target without an env file is a usage error."""
        assert run("--env", "tpu").exit_code == 2

    def test_every_env_file_is_a_target(self) -> None:
        """None is kept by hand."""
        assert {path.stem for path in (REPOSITORY / "deploy").glob("*.env")} == set(TARGETS)
