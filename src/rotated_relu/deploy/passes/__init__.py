"""Passes over exported ONNX graphs, each with its contract in the head of its file."""
