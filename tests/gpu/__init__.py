"""What needs a CUDA device; each test is skipped with the reason where something is missing.

Counting and training need torch, NumPy, ONNX, SciPy and pytest, and nothing else of Requant's
dependencies.
"""
