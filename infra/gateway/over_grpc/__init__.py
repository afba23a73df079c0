"""The Open Inference Protocol over gRPC, beside its HTTP side and over the same endpoints."""
