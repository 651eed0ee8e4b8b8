"""How fast is it? `make bench` answers with ratios measured in one run, never with an assertion.

Three things take turns on the same machine, round after round until the medians of their ratios are settled:

- the floor: the shipped graphs on ONNX Runtime, one thread per core, decode + detect + recognize and nothing else;
- `insightface` FaceAnalysis in process, one caller, as `pip install insightface` gives it; `make bench-peers` has
  `uniface` beside it;
- jetface, the real server behind real HTTP, closed-loop clients.

What else ran on the machine meanwhile is told with them.
"""
