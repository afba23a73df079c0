"""The engine inspector's JSON of TensorRT 10 and 11: whose kernels multiply what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.engines.nvidia.inspection import parse_inspection, printed_layers
from infra.engines.port import Kernel
from infra.errors import BadInput

Json = dict[str, Any]
INT8_TACTIC = (
    "sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize128x128x64_stage3_warpsize2x2x1_tensor16x8x32"
)
FP8_TACTIC = (
    "sm89_xmma_gemm_e4m3f32_e4m3f32_f32_tn_n_tilesize64x64x64_stage4_warpsize2x2x1_tensor16x8x32"
)
FLOAT_TACTIC = (
    "sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize32x32x64_stage3_warpsize2x2x1_tensor16x8x8"
)


def tensor(major: int, name: str, kind: str) -> Json:
    """Make a tensor as each version writes it."""
    if major == 10:
        return {
            "Name": name,
            "Location": "Device",
            "Dimensions": [4, 8],
            "Format/Datatype": f"Row major {kind} format",
        }
    return {
        "Name": name,
        "Location": "Device",
        "Dimensions": [4, 8],
        "Format": "Row major linear",
        "Datatype": kind,
    }


def layer(major: int, node: str, tactic: str, kinds: tuple[str, ...], **more: Any) -> Json:
    return {
        "Name": f"{node}_myl0_1",
        "LayerType": "gemm",
        "Inputs": [tensor(major, f"t{place}", kind) for place, kind in enumerate(kinds)],
        "Outputs": [tensor(major, "out", "Float")],
        "TacticName": tactic,
        "StreamId": 0,
        "Metadata": f"[ONNX Layer: {node}]\x1e[ONNX Layer: {node}.weight.dequantize]",
        **more,
    }


def document(major: int, *layers: Json | str) -> bytes:
    edges: Json = {"Bindings": ["x", "y"]}
    if major == 11:
        edges = {
            "I/O Tensors": [
                {"Name": "x", "IOMode": "Input", "DataType": "Float", "Dimensions": [-1, 8]}
            ]
        }
    return json.dumps({"Layers": list(layers), **edges}).encode()


def precision(major: int, *args: Any, **more: Any) -> str:
    return parse_inspection(document(major, layer(major, "fc", *args, **more)))[0].precision


@pytest.mark.parametrize("major", [10, 11])
@pytest.mark.parametrize(
    ("tactic", "expected"),
    [
        (INT8_TACTIC, "INT8"),
        (FP8_TACTIC, "FP8"),
        (FLOAT_TACTIC, "FLOAT"),
        ("ampere_int8_i16816gemm_int8", "INT8"),
    ],
)
def test_the_name_of_a_kernel_tells_what_it_multiplies(
    major: int, tactic: str, expected: str
) -> None:
    assert precision(major, tactic, ("Float", "Float")) == expected


@pytest.mark.parametrize("major", [10, 11])
@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("Int8", "Int8", "Float"), "INT8"),
        (("FP8", "FP8"), "FP8"),
        (("Float", "Half"), "FLOAT"),
        (
            ("Int8", "Float"),
            "UNKNOWN",
        ),  # the other operand may have been restored before the product
        (("Half", "Int4"), "UNKNOWN"),
        ((), "UNKNOWN"),
    ],
)
def test_a_kernel_without_a_telling_name_is_known_by_its_operands(
    major: int, kinds: tuple[str, ...], expected: str
) -> None:
    assert precision(major, "__myl_RouCasFc_0x1f", kinds) == expected


def test_weights_inside_the_kernel_count_as_an_operand() -> None:
    weights = {"Type": "Int8", "Count": 48}
    assert precision(10, "0x0000000000020318", ("Int8",), Weights=weights) == "INT8"


@pytest.mark.parametrize("major", [10, 11])
def test_a_kernel_bears_the_names_of_all_nodes_that_became_it(major: int) -> None:
    kernel = parse_inspection(document(major, layer(major, "fc", INT8_TACTIC, ("Int8", "Int8"))))[0]
    assert kernel.nodes == {"fc", "fc.weight.dequantize"}


def test_a_kernel_without_metadata_is_known_by_its_name() -> None:
    one = layer(10, "fc", INT8_TACTIC, ("Int8",), Metadata="", Name="fc + node_Add_0")
    assert parse_inspection(document(10, one))[0].nodes == {"fc", "node_Add_0"}


def test_a_copy_between_formats_multiplies_nothing() -> None:
    assert precision(10, "0x00000000000003ea", ("Int8",), LayerType="Reformat") == ""


def test_an_engine_built_without_details_leaves_every_precision_unknown() -> None:
    assert parse_inspection(document(11, "fc + node_Add_0")) == (
        Kernel("fc + node_Add_0", "", "UNKNOWN", frozenset(["fc", "node_Add_0"])),
    )


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"Layers": []}', b'{"Bindings": []}', b'{"Layers": 1']
)
def test_what_is_no_inspectors_document_is_bad_input(data: bytes) -> None:
    with pytest.raises(BadInput, match="not an engine inspector's document"):
        parse_inspection(data)


PRINTED = """Layers:
Name: __myl_MulMinMaxRounCast_myl0_0, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1,8], \
Strides: [8,1], StrideOrder: [1,0], Datatype: Half, Format: (Linear) Row major linear format }], \
Constants: [], Outputs: [ { Name: q, Datatype: Int8, Format: (Linear) Row major }], \
TacticName: __myl_MulMinMaxRounCast_0x1, StreamId: 0, Metadata: [ONNX Layer: fc]
Name: fc_myl0_1, LayerType: gemm, Inputs: [ { Name: q, Datatype: Int8, Format: (Linear) }], \
Constants: [ { Name: w, Datatype: Int8, Format: (Linear) }, { Name: a, Datatype: Float }], \
Outputs: [ { Name: y, Datatype: Half, Format: (Linear) }], TacticName: __myelin_CASK_STUB, \
StreamId: 0, Metadata: [ONNX Layer: fc][ONNX Layer: fc.weight.dequantize]
I/O Tensors:
 Name: x, IOMode: Input, DataType: Half, Dimensions: [1,8], Location: Device
""".replace("\\\n", "")


def test_what_a_builder_prints_of_an_engine_tells_its_kernels() -> None:
    document = json.dumps({"Layers": printed_layers(PRINTED), "I/O Tensors": []}).encode()
    quantizer, product = parse_inspection(document)
    assert (quantizer.kind, quantizer.precision) == ("kgen", "")
    assert (product.kind, product.precision) == ("gemm", "INT8")
    assert product.nodes == {"fc", "fc.weight.dequantize"}


@pytest.mark.parametrize("text", ["", "Layers:", "Layers:\nName: cut short, LayerType: gemm"])
def test_what_is_no_layer_is_passed_over(text: str) -> None:
    assert printed_layers(text) == []
