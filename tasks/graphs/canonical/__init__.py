"""From an ONNX graph as exporters write it to the one form that everything else starts from."""
