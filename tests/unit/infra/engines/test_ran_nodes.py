"""What ONNX Runtime's own profile of a run tells of each node, and where the target is not."""

import json

import onnxruntime as ort
import pytest

from infra.engines import onnxruntime_cuda, open_target
from infra.engines.onnx_sessions import RanNode, described
from infra.errors import Unavailable
from tests import graphs


def event(name: str, provider: str, *types: str) -> dict[str, object]:
    read = [{kind: [4, 8]} for kind in types]
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "args": {"provider": provider, "input_type_shape": read},
    }


def test_each_node_is_read_with_its_provider_and_its_floats() -> None:
    events = [
        {"cat": "Session", "name": "model_run", "args": {}},
        {"cat": "Node", "name": "a_fence_before", "args": {}},
        event("a", "CUDAExecutionProvider", "float16", "float16"),
        event("b", "CUDAExecutionProvider", "bfloat16", "float"),
        event("c", "CPUExecutionProvider", "int64"),
    ]
    ran = onnxruntime_cuda._read_profile(json.dumps(events).encode())
    assert ran == {
        "a": RanNode("CUDAExecutionProvider", "FP16"),
        "b": RanNode("CUDAExecutionProvider", "BF16"),
        "c": RanNode("CPUExecutionProvider", "FLOAT"),
    }


def test_what_ran_on_the_cpu_says_so() -> None:
    graph = graphs.product(graphs.np.eye(4, dtype=graphs.np.float32))
    ran = {
        "node_MatMul_0": RanNode("CUDAExecutionProvider", "FP16"),
        "node_Add_0": RanNode("CPUExecutionProvider", "FLOAT"),
    }
    layers = json.loads(described(graph, ran))["layers"]
    kernels = [onnxruntime_cuda._kernel(layer) for layer in layers]
    assert [(kernel.name, kernel.precision) for kernel in kernels] == [
        ("node_MatMul_0", "FP16"),
        ("node_Add_0 on the CPU", "FLOAT"),
    ]


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="the provider is here"
)
def test_without_its_provider_the_target_says_so_in_one_sentence() -> None:
    with pytest.raises(Unavailable, match=r"^target onnxruntime-cuda cannot be used here: .*CUDA"):
        open_target("onnxruntime-cuda")
