"""ONNX files, made operator by operator, against onnxruntime."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed: make env")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: make env")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from small_budgets import SMALL  # noqa: E402

import lipdescent  # noqa: E402
from lipdescent.bracketing.bracket import bracket  # noqa: E402
from lipdescent.bracketing.onnx_network import load_onnx  # noqa: E402
from lipdescent.networks import declared  # noqa: E402
from lipdescent.networks.graph import Attention, GraphNetwork  # noqa: E402
from lipdescent.networks.onnx_file.builder import MOVING  # noqa: E402
from lipdescent.networks.onnx_file.file import RULES, read_onnx  # noqa: E402
from lipdescent.networks.operations import Divide  # noqa: E402
from lipdescent.networks.reading import Unreadable  # noqa: E402
from lipdescent.plugins import lookup  # noqa: E402

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def whole(*numbers):
    return np.array(numbers, np.int64)


def saved(path, nodes, size, weights=None, *, opset=17, outputs=("y",), domains=()):
    """A file of ``nodes`` with the input x of ``size``."""
    tensors = [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs], tensors,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def one(kind, size, /, *weights, opset=17, **attributes):
    """A file of one node: its operator, the size of x, its other inputs, its opset."""
    return kind, size, weights, opset, attributes


IMAGE, TOKENS, ROW = (1, 4, 6, 6), (1, 3, 8), (1, 5)
CASES = [
    *(one(name, ROW) for name in (
        "Relu", "LeakyRelu", "Elu", "Celu", "Selu", "Sigmoid", "Tanh", "Log", "Sqrt", "Reciprocal",
        "Sinh", "Softplus", "Softsign", "HardSigmoid", "HardSwish", "Neg", "Sin", "Cos", "Cosh",
        "Tan", "Abs", "Atan", "Asinh", "Erf", "Exp", "Sign",
        "Softmax", "LogSoftmax", "Identity", "Dropout",
    )),
    one("HardSigmoid", ROW, alpha=1 / 6, beta=0.5), one("LeakyRelu", ROW, alpha=0.3),
    one("Mish", ROW, opset=18), one("Gelu", ROW, opset=20),
    one("Gelu", ROW, opset=20, approximate="tanh"),
    one("Clip", ROW, np.float32(-0.5), np.float32(0.25)), one("Clip", ROW, np.float32(0)),
    one("Clip", ROW, opset=7, min=-0.5, max=1.0), one("Cast", ROW, to=TensorProto.FLOAT),
    one("PRelu", IMAGE, array(4, 1, 1)), one("PRelu", ROW, array(1)),
    one("Col2Im", (1, 8, 9), whole(4, 4), whole(2, 2), opset=18),
    one("Col2Im", (1, 12, 12), whole(5, 8), whole(2, 3), opset=18, strides=[2, 1],
        pads=[1, 0, 1, 0], dilations=[1, 2]),
    one("PRelu", (1, 8, 8), array(8)), one("PRelu", (1, 4, 4), array(4, 4)),
    one("Pow", ROW, np.float32(2)), one("Max", ROW, np.float32(0.1)), one("Min", ROW, array(5)),
    one("Max", ROW, np.float32(0)), one("Softmax", TOKENS, opset=11, axis=1),
    one("Softmax", TOKENS, axis=1), one("Softmax", TOKENS, axis=-1),
    *(one(name, IMAGE, array(4, 1, 1)) for name in ("Add", "Sub", "Mul", "Div")),
    *(one(name, IMAGE, np.float32(3)) for name in ("Add", "Sub", "Mul", "Div")),
    one("Add", (1, 5), array(3, 5)), one("Mul", (1, 1, 5), array(1, 3, 1)),
    one("Sum", ROW, array(5)),
    one("Mean", ROW, array(5), array(1)),
    one("MatMul", ROW, array(5, 3)), one("MatMul", TOKENS, array(8, 2)),
    one("MatMul", ROW, array(5)),
    one("MatMul", (5,), array(5, 3)), one("MatMul", TOKENS, array(1, 8, 2)),
    one("Gemm", ROW, array(5, 3), array(3)), one("Gemm", ROW, array(3, 5), transB=1, alpha=0.5),
    one("Gemm", ROW, array(5, 3), array(1), beta=2.0), one("Gemm", (5, 1), array(5, 3), transA=1),
    one("Gemm", (3, 5), array(5, 3), array(3, 1)), one("Gemm", (3, 5), array(5, 3), array(3, 3)),
    one("Conv", IMAGE, array(6, 2, 3, 3), array(6), group=2, strides=[2, 1], pads=[1, 0, 1, 0]),
    one("Conv", IMAGE, array(3, 4, 3, 3), pads=[0, 1, 2, 1], dilations=[2, 1]),
    one("Conv", IMAGE, array(3, 4, 2, 2), auto_pad="SAME_UPPER", strides=[2, 2]),
    one("Conv", IMAGE, array(3, 4, 3, 3), auto_pad="SAME_LOWER"),
    one("Conv", TOKENS, array(2, 3, 3)),
    one("Conv", (1, 2, 4, 4, 4), array(3, 2, 2, 2, 2)),
    one("ConvTranspose", IMAGE, array(4, 2, 3, 3), array(2), strides=[2, 2], pads=[1, 1, 1, 1],
        output_padding=[1, 1]),
    *(one("BatchNormalization", size, array(size[1]), array(size[1]), array(size[1]),
          np.exp(array(size[1])), epsilon=1e-3) for size in (ROW, TOKENS, IMAGE)),
    one("InstanceNormalization", IMAGE, array(4), array(4)),
    one("GroupNormalization", IMAGE, array(2), array(2), opset=18, num_groups=2),
    one("LayerNormalization", TOKENS, array(8), array(8)),
    one("LayerNormalization", TOKENS, array(8)),
    one("LayerNormalization", TOKENS, array(3, 8), array(3, 8), axis=1),
    one("MaxPool", IMAGE, kernel_shape=[2, 2]),
    one("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2],
        pads=[1, 1, 1, 1]), one("MaxPool", TOKENS, kernel_shape=[2], strides=[2], ceil_mode=1),
    one("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[0, 0, 1, 1], count_include_pad=1),
    one("GlobalAveragePool", IMAGE), one("GlobalMaxPool", IMAGE),
    *(one(f"Reduce{name}", IMAGE, opset=13, axes=[2, 3]) for name in
      ("Mean", "Max", "Min", "L2", "L1", "SumSquare", "LogSumExp")),
    *(one(f"Reduce{name}", ROW, opset=18, noop_with_empty_axes=1) for name in
      ("Sum", "L2", "L1", "SumSquare")),
    one("ReduceSum", IMAGE, whole(1), keepdims=0), one("ReduceMean", IMAGE, whole(-1), opset=18),
    one("ReduceMean", TOKENS, keepdims=0, axes=[1]), one("ReduceSum", ROW),
    one("Reshape", IMAGE, whole(1, 8, -1)), one("Reshape", TOKENS, whole(-1, 8)),
    one("Flatten", IMAGE), one("Flatten", TOKENS, axis=2), one("Transpose", TOKENS, perm=[0, 2, 1]),
    one("Squeeze", (1, 1, 5), whole(1)), one("Squeeze", (1, 1, 5), opset=11, axes=[1]),
    one("Unsqueeze", ROW, whole(1)), one("Unsqueeze", ROW, opset=11, axes=[1]),
    one("Slice", IMAGE, whole(1, -1), whole(3, -9), whole(2, 3), whole(1, -2)),
    one("Slice", IMAGE, opset=9, axes=[3], starts=[1], ends=[4]),
    one("Gather", TOKENS, whole(2, 0, 0), axis=1), one("Expand", (1, 1, 5), whole(1, 3, 5)),
    one("Tile", TOKENS, whole(1, 2, 1)), one("Pad", IMAGE, whole(0, 0, 1, 0, 0, 0, 0, 2)),
    one("Pad", IMAGE, whole(0, 0, 1, 0, 0, 0, 0, 2), np.float32(1.5)),
    one("Pad", IMAGE, whole(0, 0, 1, 0, 0, 0, 0, 2), mode="reflect"),
    one("Pad", IMAGE, whole(0, 0, 1, 0, 0, 0, 0, 2), mode="edge"),
    one("Pad", IMAGE, opset=9, pads=[0, 0, 1, 0, 0, 0, 0, 2], value=1.5),
    one("Pad", IMAGE, whole(0, -1, -2, 1, 0, 0, 1, -3), np.float32(1.5)),
    one("Pad", IMAGE, whole(-2, 1, 1, -1), None, whole(2, -1), opset=18),
    one("Pad", IMAGE, whole(0, 0, -1, 2, 0, 0, 1, 0), mode="reflect"),
    one("Pad", IMAGE, whole(0, 0, -1, 2, 0, 0, 1, -3), mode="edge"),
    one("Pad", IMAGE, opset=9, pads=[0, 0, -1, 0, 0, 0, 0, 2], value=1.5),
    one("DepthToSpace", IMAGE, blocksize=2), one("SpaceToDepth", IMAGE, blocksize=2),
    one("Concat", TOKENS, array(1, 2, 8), axis=1), one("Concat", TOKENS, array(1, 2, 8), axis=-2),
    one("Trilu", (1, 4, 5), np.array(1), upper=0), one("Trilu", (1, 4, 5)),
    one("ScatterND", ROW, whole([0, 3], [0, 1]), array(2)),
    one("ScatterElements", ROW, whole([4, 0]), array(1, 2), axis=1),
    one("GatherElements", ROW, whole([4, 0, 0]), axis=1), one("GatherND", TOKENS, whole([0, 2])),
    one("ReverseSequence", (1, 5, 2), whole(4), batch_axis=0, time_axis=1),
    one("Where", ROW), one("Greater", ROW), one("GreaterOrEqual", ROW),
    one("Attention", (1, 2, 3, 4), opset=23),
    one("CumSum", TOKENS, np.array(1)), one("CumSum", TOKENS, np.array(-1), exclusive=1, reverse=1),
    one("TopK", ROW, whole(3)), one("TopK", TOKENS, whole(2), axis=1, largest=0),
    one("Einsum", TOKENS, array(8, 2, 3), equation="bti,ihk->bhtk"),
    one("Einsum", TOKENS, equation="bti->bit"), one("Einsum", TOKENS, equation="...i->..."),
    one("ThresholdedRelu", ROW, alpha=0.3), one("Swish", ROW, opset=24, alpha=1.5),
    one("Shrink", ROW, lambd=0.4, bias=0.4), one("Shrink", ROW, lambd=0.4),
    one("CastLike", ROW, array(1)),
    one("Selu", ROW, alpha=1.5, gamma=0.7), one("PRelu", TOKENS, array(8)),
    one("RMSNormalization", TOKENS, array(8), opset=23), one("LRN", IMAGE, size=3, alpha=0.3),
    one("ReduceLogSum", IMAGE, opset=13, axes=[1]), one("Less", ROW), one("LessOrEqual", ROW),
    one("Less-first", ROW), one("Greater-first", ROW), one("Softshrink", ROW),
    one("MaxPool", IMAGE, kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
    one("Upsample", IMAGE, np.float32([1, 1, 2, 3]), opset=9),
    one("Upsample", IMAGE, np.float32([1, 1, 2, 2]), opset=9, mode="linear"),
    one("Resize", IMAGE, np.float32([1, 1, 2, 0.5]), opset=10),
    one("Resize", IMAGE, np.float32([1, 1, 1.5, 0.4]), opset=10),
    one("TopK", ROW, whole(1), sorted=0),
    *(one("Resize", IMAGE, None, np.float32([1, 1, 1.5, 0.6]), mode="nearest", nearest_mode=how,
          coordinate_transformation_mode=places)
      for how, places in itertools.product(
          ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
          ("asymmetric", "half_pixel"))),
    *(one("Resize", IMAGE, None, None, whole(1, 4, 9, 4), mode=mode,
          coordinate_transformation_mode=places)
      for mode, places in itertools.product(
          ("linear", "cubic"),
          ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"))),
    one("Resize", IMAGE, None, None, whole(1, 4, 9, 4), mode="cubic", exclude_outside=1,
        cubic_coeff_a=-0.5),
    one("Resize", (1, 2, 5), None, np.float32([1, 1, 2]), mode="linear"),
    *(one(name, (4, 1, 3), array(d, gates * 2, 3), array(d, gates * 2, 2), array(d, gates * 4),
          direction=direction, hidden_size=2, **more)
      for name, gates, more in (
          ("RNN", 1, {}), ("LSTM", 4, {}), ("GRU", 3, {}), ("GRU", 3, {"linear_before_reset": 1}))
      for d, direction in ((1, "forward"), (1, "reverse"), (2, "bidirectional"))),
    one("RNN", (4, 1, 3), array(1, 2, 3), array(1, 2, 2), hidden_size=2, activations=["Relu"]),
    one("GRU", (4, 1, 3), array(1, 6, 3), array(1, 6, 2), None, None, array(1, 1, 2),
        hidden_size=2, clip=0.7),
    one("LSTM", (4, 1, 3), array(1, 8, 3), array(1, 8, 2), array(1, 16), np.int32([4]),
        array(1, 1, 2), array(1, 1, 2), array(1, 6), hidden_size=2),
    one("LSTM", (4, 1, 3), array(1, 8, 3), array(1, 8, 2), hidden_size=2, input_forget=1,
        activations=["HardSigmoid", "Softsign", "LeakyRelu"], activation_alpha=[0.3, 0.2],
        activation_beta=[0.6]),
]  # fmt: skip


def leaky(comparison, above, compared=("x", "zero")):
    """x where it is above 0, x / 4 elsewhere."""
    make, pair = helper.make_node, ["x", "s"] if above else ["s", "x"]
    nodes = [make(comparison, compared, ["m"]), make("Mul", ["x", "quarter"], ["s"])]
    held = {"zero": np.float32(0), "quarter": np.float32(0.25)}
    return [*nodes, make("Where", ["m", *pair], ["y"])], held


def shrunk():
    """``nn.Softshrink(0.3)`` as torch.onnx writes it."""
    make, held = helper.make_node, {"t": np.float32(0.3), "n": np.float32(-0.3)}
    nodes = [
        make("Greater", ["x", "t"], ["a"]), make("Sub", ["x", "t"], ["b"]),
        make("Where", ["a", "b", "zero"], ["c"]), make("Less", ["x", "n"], ["d"]),
        make("Add", ["x", "t"], ["e"]), make("Where", ["d", "e", "zero"], ["f"]),
        make("Add", ["c", "f"], ["y"]),
    ]  # fmt: skip
    return nodes, held | {"zero": np.float32(0)}


# Those that have x in another place, or a mask that others take.
TWO = {
    "Where": ([helper.make_node("Where", ["m", "x", "w"], ["y"])],
              {"m": np.array([True, False, True, True, False]), "w": array(1, 5)}),
    "Attention": ([helper.make_node("Mul", ["x", "w"], ["k"]),
                   helper.make_node("Attention", ["x", "k", "x"], ["y"], is_causal=1, scale=0.4)],
                  {"w": array(4)}),
    **{name: leaky(name, name[0] == "G")
       for name in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    "Less-first": leaky("Less", True, ["zero", "x"]),
    "Greater-first": leaky("Greater", False, ["zero", "x"]),
    "Softshrink": shrunk(),
}  # fmt: skip


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda i: f"{CASES[i][0]}-{i}")
def test_every_operator_is_what_onnxruntime_computes(case, tmp_path):
    kind, size, weights, opset, attributes = CASES[case]
    names = ["" if w is None else f"w{i}" for i, w in enumerate(weights)]
    outputs = ["y", "places"] if kind == "TopK" else ["y"]
    nodes = [helper.make_node(kind, ["x", *names], outputs, **attributes)]
    given = {name: w for name, w in zip(names, weights, strict=True) if name}
    if kind in TWO:
        nodes, given = TWO[kind]
    path = saved(tmp_path / "n.onnx", nodes, size, given, opset=opset)
    read = load_onnx(path)  # raises where they differ
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = array(*size)
    truths = [session.run(None, {"x": sign * x})[0].reshape(-1) for sign in (1, -1)]
    points = torch.from_numpy(np.stack([x, -x])).reshape(2, *read.input_shape)
    with torch.no_grad():
        found = read.network(points)
    np.testing.assert_allclose(found.flatten(1), np.stack(truths), rtol=1e-4, atol=1e-5)


def test_every_operator_has_a_case():
    tried = {case[0] for case in CASES}
    assert {*RULES, *MOVING} - tried <= {"SimplifiedLayerNormalization", "Split"}


def dense(path, weights, size, *, opset=13, mean=None):
    """MatMul, Add and Relu in turn, behind a Sub and a Flatten, as ACAS-Xu's files have them."""
    nodes = [helper.make_node("Flatten", ["x"], ["h0"])]
    held = {}
    if mean is not None:
        nodes.insert(0, helper.make_node("Sub", ["x", "mean"], ["c"]))
        nodes[1], held["mean"] = helper.make_node("Flatten", ["c"], ["h0"]), mean
    for i, (weight, bias) in enumerate(weights):
        held |= {f"W{i}": weight.T.copy(), f"b{i}": bias}
        last = i == len(weights) - 1
        nodes.append(helper.make_node("MatMul", [f"h{i}", f"W{i}"], [f"m{i}"]))
        # The constant first or second, as exporters have it.
        pair = [f"m{i}", f"b{i}"][:: 1 if i % 2 else -1]
        nodes.append(helper.make_node("Add", pair, ["y" if last else f"a{i}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"a{i}"], [f"h{i + 1}"]))
    return saved(path, nodes, size, held, opset=opset)


def test_a_chain_has_every_bound_that_the_same_sequential_has(tmp_path):
    sizes = [5, 7, 6, 3]
    weights = [(array(b, a), array(b)) for a, b in itertools.pairwise(sizes)]
    path = dense(
        tmp_path / "n.onnx", weights, (1, 1, 1, 5), mean=np.zeros((1, 1, 1, 5), np.float32)
    )
    read = load_onnx(path)
    assert read.input_shape == (1, 1, 5)
    layers = []
    for weight, bias in weights:
        layer = nn.Linear(*weight.shape[::-1])
        layer.weight.data, layer.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
        layers += [layer, nn.ReLU()]
    same = nn.Sequential(nn.Flatten(), *layers[:-1]).eval()
    methods = {name: SMALL.get(name, {}) for name in lookup.known("bounds")}
    asked = {"methods": methods, "budget": math.inf}  # the clock has no say
    tables = [bracket(net, (1, 1, 5), **asked).table for net in (read.network, same)]
    assert [type(m) for m in read.network] == [type(m) for m in same]
    assert tables[0].drop(columns="seconds").equals(tables[1].drop(columns="seconds"))
    assert (tables[0].set_index("quantity").status[["upper_lipsdp", "lower_ascent"]] == "ok").all()


def test_a_mean_that_is_taken_off_first(tmp_path):
    weights = [(array(4, 5), array(4)), (array(2, 4), array(2))]
    path = dense(tmp_path / "n.onnx", weights, (1, 1, 1, 5), mean=array(1, 1, 1, 5))
    read = load_onnx(path)
    found = bracket(
        read.network, read.input_shape, methods=["upper_layer_product", "lower_jacobian"]
    )
    product = math.prod(np.linalg.svd(w.astype(np.float64))[1][0] for w, _ in weights)
    assert 0 < found.lower <= product <= found.upper <= product * (1 + 1e-12)


def test_branches_and_attention_stay_what_they_are(tmp_path):
    weights = {"W": array(4, 4), "Q": array(4, 4), "K": array(4, 4), "b": array(4)}
    make = helper.make_node
    nodes = [
        make("MatMul", ["x", "W"], ["h"]), make("Relu", ["h"], ["r"]),
        make("Add", ["r", "x"], ["s"]),
        make("Split", ["s"], ["s0", "s1"], axis=2), make("Concat", ["s1", "s0"], ["t"], axis=-1),
    ]  # fmt: skip
    ends = [make("Identity", ["t"], ["y"])]
    read = load_onnx(saved(tmp_path / "r.onnx", nodes + ends, (1, 3, 4), weights))
    assert bracket(read.network, (3, 4), methods=["upper_layer_product"]).upper > 0
    attention = [
        make("MatMul", ["t", "Q"], ["q0"]), make("Add", ["q0", "b"], ["q"]),
        make("MatMul", ["t", "K"], ["k"]), make("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        make("MatMul", ["q", "kt"], ["z"]), make("Div", ["z", "c"], ["sc"]),
        make("Softmax", ["sc"], ["p"], axis=-1), make("MatMul", ["p", "t"], ["y"]),
    ]  # fmt: skip
    weights["c"] = np.float32(2.0)
    read = load_onnx(saved(tmp_path / "a.onnx", nodes + attention, (1, 3, 4), weights))
    assert isinstance(read.network, GraphNetwork)
    operations = [v.operation for v in read.graph.vertices]
    assert [o for o in operations if isinstance(o, Attention)] == [Attention(1.0)]
    assert [o.number for o in operations if isinstance(o, Divide)] == [2.0]  # of the scores
    found = bracket(read.network, (3, 4), methods=["lower_jacobian"]).table
    assert found.value[0] > 0


def test_shapes_that_are_computed_and_tokens_of_their_own(tmp_path):
    """A class token that is expanded to the batch, as exporters of transformers write it."""
    make = helper.make_node
    nodes = [
        make("Shape", ["x"], ["s"]), make("Gather", ["s", "zero"], ["n"], axis=0),
        make("Concat", ["n", "rest"], ["target"], axis=0),
        make("Expand", ["token", "target"], ["t"]),
        make("Concat", ["t", "x"], ["c"], axis=1), make("Reshape", ["c", "flat"], ["f"]),
        make("MatMul", ["f", "W"], ["m"]), make("Reshape", ["m", "back"], ["y"]),
    ]  # fmt: skip
    weights = {"zero": whole(0), "rest": whole(1, 4), "token": array(1, 1, 4), "W": array(4, 2)}
    weights |= {"flat": whole(-1, 4), "back": whole(1, 4, 2)}
    path = saved(tmp_path / "n.onnx", nodes, ("batch", 3, 4), weights)
    read = load_onnx(path)
    x = array(2, 3, 4)
    with torch.no_grad():
        found = read.network(torch.from_numpy(x)).numpy()
    token = np.broadcast_to(weights["token"], (2, 1, 4))
    truth = np.concatenate([token, x], 1) @ weights["W"]
    np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-6)


def good(tmp_path):
    return dense(tmp_path / "n.onnx", [(array(2, 3), array(2))], ("batch", 3))


def cut(tmp_path):
    path = good(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    return path


def no_file(tmp_path):
    path = tmp_path / "n.onnx"
    path.write_bytes(b"\x08" * 30)
    return path


def elsewhere(tmp_path):
    model = onnx.load(good(tmp_path))
    onnx.save(
        model, tmp_path / "e.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    return tmp_path / "e.onnx"


def of_opset(version):
    def make(tmp_path):
        model = onnx.load(good(tmp_path))
        model.opset_import[0].version = version
        onnx.save(model, tmp_path / "o.onnx")
        return tmp_path / "o.onnx"

    return make


def of_nodes(*nodes, size=(1, 3), weights=None, **options):
    return lambda tmp_path: saved(
        tmp_path / "n.onnx", [helper.make_node(*a, **k) for a, k in nodes], size, weights, **options
    )


def two_inputs(tmp_path, kind=TensorProto.FLOAT):
    """relu(x) + W other."""
    nodes = [
        helper.make_node("MatMul", ["other", "W"], ["m"]), helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Add", ["m", "r"], ["y"]),
    ]  # fmt: skip
    model = onnx.load(saved(tmp_path / "t.onnx", nodes, ("batch", 3), {"W": array(2, 3)}))
    model.graph.input.append(helper.make_tensor_value_info("other", kind, ["batch", 2]))
    onnx.save(model, tmp_path / "t.onnx")
    return tmp_path / "t.onnx"


def whole_inputs(tmp_path):
    return two_inputs(tmp_path, TensorProto.INT64)


BAD = {
    "gone": (lambda p: p / "gone.onnx", ValueError, "there is no file .*gone.onnx"),
    "cut": (cut, ValueError, "n.onnx: (cut short, or no ONNX file|.*)"),
    "another": (no_file, ValueError, "cut short, or no ONNX file"),
    "empty": (lambda p: (p / "n.onnx").touch() or p / "n.onnx", ValueError, "cut short"),
    "elsewhere": (elsewhere, ValueError, r"keeps \w+ and \d more in other files; allowed is one"),
    "new": (of_opset(999), ValueError, "opset 999; allowed are 7 to"),
    "old": (of_opset(3), ValueError, "opset 3; allowed are 7 to"),
    "inputs": (whole_inputs, ValueError, "input other is INT64; allowed are floating-point"),
    "operator": (of_nodes((("Det", ["x"], ["y"]), {}), size=(1, 3, 3)), Unreadable,
                 "Det 'y': operator Det is unknown; allowed are Abs, Add, "),
    "rounding": (of_nodes((("Round", ["x"], ["y"]), {})), Unreadable,
                 "Round 'y': jumps or picks by values of the input, where no Lipschitz constant"),
    "hard shrink": (of_nodes(  # as torch.onnx writes it
        (("Greater", ["x", "t"], ["a"]), {}), (("Cast", ["a"], ["b"]), {"to": 9}),
        (("Or", ["b", "b"], ["c"]), {}), (("Where", ["c", "x", "t"], ["y"]), {}),
        weights={"t": np.float32(0.3)}), Unreadable, "Or 'c': jumps or picks by values"),
    "slope": (of_nodes((("PRelu", ["x", "s"], ["y"]), {}), size=(1, 4, 6, 6),
                       weights={"s": array(4)}), Unreadable,
              r"PRelu 'y': its slope has the shape \(4,\), its input \(1, 4, 6, 6\); allowed is "
              r"what broadcasts .* one slope per channel \(4, 1, 1\)"),
    "cut off": (of_nodes((("Pad", ["x", "p"], ["y"]), {}), weights={"p": whole(0, -2, 0, -1)}),
                Unreadable, r"pads \[\[0, -2\], \[0, -1\]\] cut off all of a shape \(1, 3\)"),
    "custom": (of_nodes((("Snake", ["x"], ["y"]), {"domain": "me"}), domains=["me"]), Unreadable,
               "operator me::Snake is unknown"),
    "drawn": (of_nodes((("RandomNormal", [], ["n"]), {"shape": [3], "scale": 1e-6}),
                       (("Mul", ["x", "n"], ["y"]), {})), Unreadable,
              "RandomNormal 'n': is random; allowed is a network that is the same"),
    "ends": (of_nodes((("Clip", ["x", "n"], ["y"]), {}), weights={"n": np.float32("nan")}),
             Unreadable, "Clip 'y': between nan and None; allowed are numbers"),
    "order": (of_nodes((("TopK", ["x", "k"], ["y", "i"]), {"sorted": 0}), weights={"k": whole(2)}),
              Unreadable, "TopK 'y': sorted = 0 leaves the order .*; allowed is sorted = 1"),
    "none": (of_nodes((("TopK", ["x", "k"], ["y", "i"]), {}), weights={"k": whole(0)}),
             Unreadable, "TopK 'y': its output is empty"),
    "places": (of_nodes((("TopK", ["x", "k"], ["v", "i"]), {}), (("Cast", ["i"], ["y"]), {"to": 1}),
                        weights={"k": whole(2)}), Unreadable,
               "Cast 'y': takes 'i', an output that is not read"),
    "statistics": (of_nodes(
        (("BatchNormalization", ["x", "w", "w", "w", "w"], ["y", "m", "v", "n", "u"]), {}),
        weights={"w": np.ones(3, np.float32)}, opset=9), Unreadable, "is in training mode"),
    "scale": (of_nodes(
        (("ReduceMax", ["x"], ["s"]), {"axes": [0], "keepdims": 0}),
        (("BatchNormalization", ["x", "s", "w", "w", "w"], ["y"]), {}),
        weights={"w": np.ones(3, np.float32)}), Unreadable,
        "BatchNormalization 'y': .*its weight depends on the input"),
    "quantised": (of_nodes((("QuantizeLinear", ["x", "s"], ["y"]), {}),
                           weights={"s": np.float32(0.1)}), Unreadable,
                  "QuantizeLinear 'y': jumps or picks"),
    **{kind: (of_nodes((("CastLike", ["x", "l"], ["y"]), {}), weights={"l": np.zeros(1, kind)}),
              Unreadable, "CastLike 'y': makes integers of numbers: it jumps")
       for kind in ("int64", "bool")},
    **{how: (of_nodes((("ScatterElements", ["x", "i", "u"], ["y"]), {"axis": 1, "reduction": how}),
                      weights={"i": whole([0]), "u": np.float32([[1e6]])}, opset=18), Unreadable,
             f"ScatterElements 'y': reduction '{how}' is unknown; allowed is 'none'")
       for how in ("max", "add")},
    "jump": (of_nodes((("Cast", ["x"], ["c"]), {"to": 7}), (("Cast", ["c"], ["y"]), {"to": 1})),
             Unreadable, "Cast 'c': makes integers of numbers: it jumps"),
    "crop": (of_nodes((("MaxPool", ["x"], ["y"]), {"kernel_shape": [1], "strides": [3],
             "auto_pad": "SAME_UPPER"}), size=(1, 2, 6)), Unreadable,
             "auto_pad SAME_UPPER of a kernel smaller than its strides"),
    "batch": (of_nodes((("Softmax", ["x"], ["y"]), {"axis": 0})), Unreadable,
              "Softmax 'y': softmax over the examples"),
    "open": (of_nodes((("Relu", ["x"], ["y"]), {}), size=("n", "m")), ValueError,
             r"shape \(n, m\), in which only the batch may be open; give its input_shape"),
    "constant": (of_nodes((("Identity", ["w"], ["y"]), {}), weights={"w": array(1, 2)}), ValueError,
                 "'y' does not depend on its input 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_named(name, tmp_path):
    make, error, match = BAD[name]
    path = make(tmp_path)
    with pytest.raises(error, match=match):
        read_onnx(path)


def test_every_length_of_a_file_cut_short_is_an_error(tmp_path):
    path = good(tmp_path)
    whole_file, cuts = path.read_bytes(), 0
    for length in range(0, len(whole_file), 7):
        path.write_bytes(whole_file[:length])
        with pytest.raises((ValueError, Unreadable), match=re.escape(str(path))):
            read_onnx(path)
        cuts += 1
    assert cuts > 20


def axes(*numbers):
    return {"a": whole(*numbers)}


MIXING = {
    "mean": ([("ReduceMean", ["x"], ["y"])], {}, {"axes": [0], "keepdims": 0}),
    "sum of all": ([("ReduceSum", ["x"], ["y"])], {}, {}),
    "first": ([("Gather", ["x", "a"], ["y"])], axes(0), {"axis": 0}),
    "running": ([("CumSum", ["x", "a"], ["y"])], {"a": np.array(0)}, {}),
    "pairs": ([("Transpose", ["x"], ["t"]), ("MatMul", ["t", "x"], ["y"])], {}, {}),
}


@pytest.mark.parametrize("name", MIXING)
def test_an_open_axis_whose_entries_influence_each_other_is_no_batch(name, tmp_path, capfd):
    operators, weights, attributes = MIXING[name]
    nodes = [
        helper.make_node(*own, **(attributes if i == len(operators) - 1 else {}))
        for i, own in enumerate(operators)
    ]
    path = saved(tmp_path / "n.onnx", nodes, ("n", 5), weights)
    said = "first axis is open, but its examples influence .* give an input_shape .* alone differ"
    with pytest.raises(ValueError, match=said):
        load_onnx(path)
    assert load_onnx(path, (3, 5)).input_shape == (3, 5)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("operator", "weights"),
    [
        (("Transpose", ["x"], ["y"]), {}),  # examples side by side
        (("Reshape", ["x", "a"], ["y"]), axes(-1)),
        (("Reshape", ["x", "a"], ["y"]), axes(1, 5)),  # computes one example alone
    ],
)
def test_an_open_batch_is_read_wherever_its_axis_ends(operator, weights, tmp_path, capfd):
    nodes = [helper.make_node(*operator)]
    assert load_onnx(saved(tmp_path / "n.onnx", nodes, ("n", 5), weights)).input_shape == (5,)
    assert capfd.readouterr().err == ""


def test_an_open_shape_is_given(tmp_path):
    path = saved(tmp_path / "n.onnx", [helper.make_node("Relu", ["x"], ["y"])], ("n", "m", 3))
    assert load_onnx(path, (2, 3)).input_shape == (2, 3)
    for wrong in ((2, 4), (-2, 3)):
        said = rf"input_shape \({wrong[0]}, {wrong[1]}\); its input is \(n, m, 3\)"
        with pytest.raises(ValueError, match=said):
            read_onnx(path, wrong)


def test_several_inputs_are_one_vector(tmp_path):
    path = two_inputs(tmp_path)
    read = load_onnx(path)
    assert (read.input_shape, dict(read.inputs)) == ((5,), {"x": (1, 3), "other": (1, 2)})
    (weight,) = (numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer)
    found = bracket(read.network, (5,), methods=["upper_graph", "lower_jacobian"])
    truth = np.linalg.norm(np.concatenate([np.eye(3), weight.astype(np.float64)]), 2)
    assert found.lower <= truth * (1 + 1e-12) <= found.upper * (1 + 1e-9)
    assert found.lower > 0.99 * truth
    with pytest.raises(ValueError, match="inputs x, other; an input_shape is for one"):
        read_onnx(path, (3,))


def test_a_branch_that_no_input_decides(tmp_path):
    """As exporters write what depends on a size."""
    make = helper.make_node
    branches = [
        helper.make_graph(
            [make("Mul", ["x", "w"], [f"{name}_out"])], name, [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.float32(number), "w")],
        )
        for name, number in (("then", 2), ("else", 3))
    ]  # fmt: skip
    shape = [make("Shape", ["x"], ["s"]), make("Gather", ["s", "one"], ["n"])]
    nodes = [*shape, make("Equal", ["n", "three"], ["c"])]
    nodes.append(make("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1]))
    for size, factor in ((3, 2), (4, 3)):
        held = {"one": np.array(1), "three": np.array(3)}
        read = load_onnx(saved(tmp_path / "i.onnx", nodes, (1, size), held))
        assert torch.equal(read.network(torch.ones(1, size)), torch.full((1, size), float(factor)))


def test_the_softplus_of_exporters_is_pytorchs(tmp_path):
    make = helper.make_node
    nodes = [
        make("Softplus", ["x"], ["s"]), make("Greater", ["x", "twenty"], ["m"]),
        make("Where", ["m", "x", "s"], ["y"]),
    ]  # fmt: skip
    read = load_onnx(saved(tmp_path / "s.onnx", nodes, (1, 3), {"twenty": np.float32(20)}))
    assert [type(m) for m in read.network] == [nn.Softplus]
    read = load_onnx(saved(tmp_path / "s.onnx", *shrunk()[:1], (1, 3), shrunk()[1]))
    assert [type(m) for m in read.network] == [nn.Softshrink]
    with pytest.raises(Unreadable, match=r"Where 'y': where, as the input says: it may jump"):
        read_onnx(saved(tmp_path / "s.onnx", nodes, (1, 3), {"twenty": np.float32(5)}))


def test_one_of_several_outputs(tmp_path):
    """What others take, as a label does, need not be read."""
    nodes = [helper.make_node("Round", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    path = saved(tmp_path / "n.onnx", nodes, (1, 3), outputs=("y", "z"))
    with pytest.raises(ValueError, match="several outputs; allowed are y, z"):
        read_onnx(path)
    x = torch.from_numpy(array(2, 3))
    assert torch.equal(load_onnx(path, output="z").network(x), -x)


def test_weights_that_are_integers_and_those_of_several_types_are_numbers(tmp_path):
    """Behind a cast to half precision, as converters write it; before version 19 of the opset."""
    make, float16 = helper.make_node, TensorProto.FLOAT16
    nodes = [
        make("DequantizeLinear", ["q", "s", "z"], ["V"], axis=1), make("MatMul", ["x", "V"], ["a"]),
        make("Cast", ["a"], ["b"], to=float16), make("MatMul", ["b", "W"], ["c"]),
        make("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]  # fmt: skip
    held = {
        "q": RNG.integers(0, 255, (3, 3)).astype(np.uint8), "s": np.float32([0.1, 0.2, 0.3]),
        "z": np.uint8([1, 200, 9]), "W": array(3, 2).astype(np.float16),
    }  # fmt: skip
    for opset in (13, 19):
        read = load_onnx(saved(tmp_path / "q.onnx", nodes, (1, 3), held, opset=opset))
        found = bracket(read.network, (3,), methods=["upper_graph", "lower_jacobian"])
        first = np.float32(held["q"].astype(int) - held["z"]) * held["s"]
        truth = np.linalg.norm(first.astype(float) @ held["W"].astype(float), 2)
        assert found.lower <= truth * (1 + 1e-9)
        assert truth * (1 - 1e-9) <= found.upper <= truth * (1 + 1e-6)


def test_the_long_name_of_onnx_is_none(tmp_path):
    model = onnx.load(saved(tmp_path / "r.onnx", [helper.make_node("Relu", ["x"], ["y"])], (1, 3)))
    model.graph.node[0].domain = "ai.onnx"
    onnx.save(model, tmp_path / "r.onnx")
    assert isinstance(load_onnx(tmp_path / "r.onnx").network[0], nn.ReLU)


def test_inputs_have_their_own_types(tmp_path):
    make = helper.make_node
    nodes = [make("Cast", ["d"], ["e"], to=1), make("Sub", ["x", "e"], ["y"])]
    model = onnx.load(saved(tmp_path / "t.onnx", nodes, (1, 3)))
    model.graph.input.append(helper.make_tensor_value_info("d", TensorProto.DOUBLE, [1, 3]))
    onnx.save(model, tmp_path / "t.onnx")
    x = torch.from_numpy(array(1, 6))
    assert torch.equal(load_onnx(tmp_path / "t.onnx").network(x), x[:, :3] - x[:, 3:])


def test_a_saturated_gate_is_right_to_the_largest_values(tmp_path):
    """onnxruntime's own sigmoid is 0 from somewhere on, where the true one is tiny."""
    held = {"w": np.ones((1, 8, 3), np.float32), "r": np.ones((1, 8, 2), np.float32)}
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2)
    assert load_onnx(saved(tmp_path / "l.onnx", [node], (1, 1, 3), held)).input_shape == (1, 3)


def test_an_operator_of_ones_own(tmp_path):
    node = helper.make_node("Slope", ["x"], ["y"], domain="me", negative_slope=0.5)
    path = saved(tmp_path / "n.onnx", [node], (1, 3), domains=["me"])
    read = load_onnx(path, operators={"me::Slope": nn.LeakyReLU})
    x = torch.tensor([[-2.0, 0, 3]])
    assert torch.equal(read.network(x), torch.tensor([[-1.0, 0, 3]]))
    with pytest.raises(Unreadable, match=r"Slope 'y': TypeError: .*negative_slope"):
        read_onnx(path, operators={"me::Slope": nn.ReLU})


class Snake(nn.Module):
    def forward(self, x):
        return x + torch.sin(x) ** 2


def test_an_operator_that_is_declared(tmp_path, monkeypatch):
    monkeypatch.setattr(declared, "_DECLARED", {})
    lipdescent.layer(slopes=(0, 2))(Snake)
    weights = {"W": np.eye(3, dtype=np.float32) * 3}
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("Snake", ["h"], ["y"], domain="me"),
    ]
    path = saved(tmp_path / "n.onnx", nodes, (1, 3), weights, domains=["me"])
    read = load_onnx(path, operators={"me::Snake": Snake})
    found = bracket(read.network, (3,), methods=["upper_layer_product", "lower_jacobian"])
    assert 6 <= found.upper <= 6 * (1 + 1e-9)
    assert "declared, not proved here: 1 (Snake): slopes (0.0, 2.0)" in repr(found)


@pytest.mark.parametrize(
    ("operator", "attributes", "steepest"),
    [
        ("Selu", {}, np.float64(np.float32(1.05070098)) * np.float64(np.float32(1.67326324))),
        ("Selu", {"gamma": 1.0507018, "alpha": 1.6732633},
         np.float64(np.float32(1.0507018)) * np.float64(np.float32(1.6732633))),
        ("HardSigmoid", {"alpha": 1 / 6}, np.float64(np.float32(1 / 6))),
        ("HardSigmoid", {}, np.float64(np.float32(0.2))),
    ],
)  # fmt: skip
def test_numbers_of_a_file_are_taken_as_they_are(tmp_path, operator, attributes, steepest):
    nodes = [helper.make_node("MatMul", ["x", "one"], ["v"])]
    nodes.append(helper.make_node(operator, ["v"], ["y"], **attributes))
    weights = {"one": np.ones((1, 1), np.float32)}
    read = load_onnx(saved(tmp_path / "net.onnx", nodes, (1, 1), weights))
    upper = bracket(read.network, read.input_shape, methods=["upper_graph"]).upper
    assert steepest <= upper <= steepest * (1 + 1e-7)  # PyTorch's 1/6 is that of float32 at most


@pytest.mark.parametrize(
    ("nodes", "activation"),
    [
        ([("Sigmoid", ["x"], "s"), ("Mul", ["x", "s"], "y")], nn.SiLU()),
        (
            [
                ("Div", ["x", "root"], "t"), ("Erf", ["t"], "e"), ("Add", ["e", "one"], "f"),
                ("Mul", ["x", "f"], "m"), ("Mul", ["m", "half"], "y"),
            ],
            nn.GELU(),
        ),
        ([("Softplus", ["x"], "s"), ("Tanh", ["s"], "t"), ("Mul", ["x", "t"], "y")], nn.Mish()),
        ([("HardSigmoid", ["x"], "s"), ("Mul", ["x", "s"], "y")], nn.Hardswish()),
    ],
    ids=lambda given: type(given).__name__,
)  # fmt: skip
def test_activations_that_exporters_write_out_have_their_constant(tmp_path, nodes, activation):
    alpha = {"alpha": 1 / 6} if nodes[0][0] == "HardSigmoid" else {}
    made = [
        helper.make_node(
            k, ["v" if n == "x" else n for n in i], [o], **(alpha if k[0] == "H" else {})
        )
        for k, i, o in nodes
    ]
    made.insert(0, helper.make_node("Mul", ["x", "ones"], ["v"]))
    numbers = {"root": math.sqrt(2), "one": 1.0, "half": 0.5, "ones": [1.0] * 5}
    weights = {name: np.array(number, np.float32) for name, number in numbers.items()}
    path = saved(tmp_path / "net.onnx", made, (1, 5), weights)
    read = load_onnx(path)
    found = bracket(read.network, read.input_shape, methods=["upper_graph"])
    x = torch.linspace(-9, 9, 90001, dtype=torch.float64, requires_grad=True)
    steepest = float(torch.autograd.grad(activation(x).sum(), x)[0].abs().max())
    assert found.upper == pytest.approx(steepest, rel=1e-3)
    assert found.upper >= steepest


def test_what_is_broadcast_in_a_sum_has_the_bounds_of_a_deviation(tmp_path):
    """sqrt(mean (x - mean x)^2) of 4 numbers: steepest along a centred vector, by 1 / 2."""
    mean = {"axes": [1], "keepdims": 1}
    nodes = [
        helper.make_node("Mul", ["x", "ones"], ["v"]),
        helper.make_node("ReduceMean", ["v"], ["m"], **mean),
        helper.make_node("Sub", ["v", "m"], ["c"]),
        helper.make_node("Mul", ["c", "c"], ["s"]),
        helper.make_node("ReduceMean", ["s"], ["w"], **mean),
        helper.make_node("Sqrt", ["w"], ["y"]),
    ]
    weights = {"ones": np.ones(4, np.float32)}
    read = load_onnx(saved(tmp_path / "net.onnx", nodes, (1, 4), weights))
    found = bracket(read.network, read.input_shape, methods=["upper_graph", "lower_jacobian"])
    assert found.lower <= 0.5 <= found.upper <= 0.5 * (1 + 1e-9)
    assert found.lower > 0.49
