"""Frouros's detectors, run in an environment of its own.

`frouros_worker.py GIVEN.npz ANSWER.npy` imports nothing of Requant.
"""

import sys

import numpy as np
from frouros.detectors.data_drift import KSTest  # type: ignore[import-not-found]  # lives in another environment


def main(given: str, answer: str) -> None:
    """Write p-values of each window and feature, [windows, features]."""
    arrays = np.load(given, allow_pickle=False)
    detectors = []
    for column in arrays["reference"].T:
        detector = KSTest()
        detector.fit(X=column)
        detectors.append(detector)
    values = [
        [
            detector.compare(X=column)[0].p_value
            for detector, column in zip(detectors, window.T, strict=True)
        ]
        for window in arrays["windows"]
    ]
    np.save(answer, np.array(values))


if __name__ == "__main__":
    main(*sys.argv[1:])
