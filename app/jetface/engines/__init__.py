"""TensorRT engines of models: built in a process of their own, kept, checked against FP32, taken into service."""
