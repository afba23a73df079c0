"""Every kind on the map by its word on the command line."""

from benchmarks.evidence.kinds.ocr import text_recognizer
from benchmarks.evidence.kinds.signals import image_classifier, image_encoder, speech_recognizer
from benchmarks.evidence.kinds.texts import language_model, text_encoder

KINDS = {
    "image": image_classifier,
    "vision": image_encoder,
    "speech": speech_recognizer,
    "ocr": text_recognizer,
    "text": text_encoder,
    "language": language_model,
}
"""Every kind by its word on the command line, the cheapest first."""
