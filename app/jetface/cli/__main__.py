"""`python -m jetface.cli`: the `jetface` command without its script, for processes that start one of themselves."""

from __future__ import annotations

from jetface.cli.main import main

if __name__ == "__main__":
    main(prog_name="jetface")
