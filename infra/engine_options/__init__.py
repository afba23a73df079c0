"""What engines are told: how TensorRT builds them, and what ONNX Runtime multiplies with."""
