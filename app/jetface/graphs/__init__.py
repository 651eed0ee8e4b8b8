"""ONNX graphs: checked, changed and prepared before a runtime opens them."""
