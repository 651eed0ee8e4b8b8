"""CUDA's memory, streams, events and graphs, over cuda-python; knows nothing of TensorRT or ONNX Runtime.

`runtime` says what is needed of CUDA, `bindings` is that for real; all else here is written against the first and
tested without a GPU.
"""
