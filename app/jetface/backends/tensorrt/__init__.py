"""TensorRT behind `EngineKit` and `Backend`."""
