"""What answers with a model's champion: the gateway and ONNX servers, or what loads checkpoints."""

from tasks.specs.form import CHECKPOINT, Form
from tasks.specs.registration import current_spec


def why_not_served(model: str) -> str | None:
    """Return why neither the gateway nor an ONNX server answers with a model; None: they do.

    Raises:
        NotFound: There is no such model.
    """
    if current_spec(model).form is Form.GRAPH:
        return None
    return (
        f"{model} stays a checkpoint (targets: {CHECKPOINT}), which no gateway or ONNX server "
        f"serves: `requant publish vllm {model} --to FOLDER` writes what vLLM serves"
    )
