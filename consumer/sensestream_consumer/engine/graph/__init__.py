"""The ONNX graph: opened, converted for this processor, run."""
