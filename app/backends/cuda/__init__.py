"""CUDA's memory, streams and graphs, over cuda-python; knows nothing of TensorRT or ONNX Runtime."""
