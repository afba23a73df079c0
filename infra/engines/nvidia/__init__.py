"""TensorRT and TensorRT for RTX: one adapter, `target.py`, because one API drives both.

The module is passed in. TensorRT-RTX builds ahead of time for a named compute capability and needs
no GPU for that; running needs one.
"""
