"""The serving gateway: tensors in and out over the Open Inference Protocol, batched and captured.

It knows engines and arrays. What a text, a window of traffic or a ledger is, `flows/gateway/`
knows.
"""
