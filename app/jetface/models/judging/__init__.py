"""Whether two ways to run a model agree: on what it is tried, by which limits."""
