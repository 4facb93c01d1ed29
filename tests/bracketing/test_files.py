"""The command line on weights and networks as files have them."""

import pytest
import torch
from torch import nn

from lipdescent.bracketing.bracket import bracket
from lipdescent.commands.bracket import main

FILE = """
from torch import nn
def net(): return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
"""
METHODS = ["--methods", "upper_layer_product,lower_jacobian"]


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


def printed(capsys, *arguments):
    main([*arguments, *METHODS])
    out, err = capsys.readouterr()
    return out.splitlines()[-1], err


def last(network, shape=(3,)):
    found = bracket(network, shape, methods=["upper_layer_product", "lower_jacobian"])
    return repr(found).splitlines()[-1]


def test_a_checkpoint_of_a_training_loop(net, capsys):
    held = {f"actor.{name}": t for name, t in net.state_dict().items()}
    torch.save({"state_dict": held | {"critic.w": torch.zeros(1)}, "epoch": 3}, "w.ckpt")
    where = ["--model", "mine.py:net", "--input-shape", "3", "--weights", "w.ckpt"]
    out, err = printed(capsys, *where, "--prefix", "actor.")
    assert out == last(net)
    assert "--weights w.ckpt: 1 tensors without the prefix 'actor.' left out: critic.w" in err
    with pytest.raises(SystemExit, match=r"error: --weights w\.ckpt: .*missing: 0\.weight"):
        printed(capsys, *where)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--model", "mine.py:net"], "--input-shape is needed with --model"),
        (["--model", "mine.py:net", "--input-shape", "3", "--output", "y"], "allowed are 0"),
        (["--model", "mine.py:net", "--input-shape", "3", "--operator", "a=b"], "is for --onnx"),
        (["--model", "mine.py:net", "--input-shape", "3", "--prefix", "a."], "--prefix is of the"),
        (["--onnx", "n.onnx", "--weights", "w.pt"], "--weights and --prefix are for --model"),
    ],
)
def test_options_that_do_not_go_together(net, capsys, arguments, match):
    with pytest.raises(SystemExit, match=match):
        printed(capsys, *arguments)


def test_an_onnx_file(net, capsys):
    onnx = pytest.importorskip("onnx", reason="the package onnx is not installed: make env")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: make env")
    from onnx import TensorProto, helper, numpy_helper

    held = {n.replace(".", ""): t.numpy() for n, t in net.state_dict().items()}
    nodes = [
        helper.make_node("Gemm", ["x", "0weight", "0bias"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "2weight", "2bias"], ["y"], transB=1),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in (("x", 3), ("y", 2))
    ]
    tensors = [numpy_helper.from_array(a, n) for n, a in held.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), "n.onnx")
    out, _ = printed(capsys, "--onnx", "n.onnx")
    assert out == last(net)
    with pytest.raises(SystemExit, match=r"error: n\.onnx: input_shape \(4,\); its input is"):
        printed(capsys, "--onnx", "n.onnx", "--input-shape", "4")
