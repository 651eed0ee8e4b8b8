"""What unfriendly clients and failing machines do to the service: `make chaos` runs each scenario, prints figures.

A scenario is a module of this package, known by its name: its docstring says what happens, and `run()` returns the rows
of a table. It ends by itself, leaves nothing running, and asserts nothing: the figures go to docs/operate.md.
"""
