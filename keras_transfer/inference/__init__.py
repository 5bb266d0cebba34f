"""What computes a network where nothing trains: ONNX Runtime on a graph of its own, or Keras."""
