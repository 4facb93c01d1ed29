"""What every contract test needs: plug-ins by file, their signatures, random states."""

from __future__ import annotations

import contextlib
import inspect
import random
from collections.abc import Callable
from types import ModuleType

import numpy as np
import printed
import torch
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lipdescent.plugins import lookup


def plugins(kind: str) -> dict[str, ModuleType]:
    """Every plug-in of a kind, by its file's name."""
    found = {name: lookup.resolve(kind, name) for name in lookup.known(kind)}
    assert found, f"no {kind}"
    return found


def check(plugin: ModuleType, protocol: type) -> None:
    """The plug-in has what the protocol names, and is called as the protocol says."""
    asked = {name: value for name, value in vars(protocol).items() if name[0] != "_"}
    assert asked
    for name in {*asked, *protocol.__annotations__}:
        assert hasattr(plugin, name), f"{plugin.__name__} has no {name}"
        if name in asked:
            check_signature(plugin.__name__, getattr(plugin, name), asked[name])


def check_signature(where: str, function, asked) -> None:
    """Same parameters in the same places; what is more has to be named by its caller."""
    wanted = dict(list(inspect.signature(asked).parameters.items())[1:])  # without self
    given = dict(inspect.signature(function).parameters)
    for name, parameter in wanted.items():
        where_it_is = f"{where}.{function.__name__}({name})"
        assert name in given, f"{where_it_is} is missing"
        own = given.pop(name)
        assert own.kind == parameter.kind, f"{where_it_is}: {own.kind}, not {parameter.kind}"
        if parameter.default is not parameter.empty:
            assert own.default is not own.empty, f"{where_it_is} has no default"
    named = (inspect.Parameter.KEYWORD_ONLY,)
    assert all(own.kind in named for own in given.values()), f"{where}: options are by name"


def states() -> list[bytes]:
    """Of the global random generators."""
    kept = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 - it is what is guarded
    numbers = f"{kept['pos']} {kept['key'].tobytes().hex()}"
    return [
        torch.random.get_rng_state().numpy().tobytes(),
        numbers.encode(),
        repr(random.getstate()).encode(),
    ]


@contextlib.contextmanager
def no_global_draws():
    """Fails if what is inside draws from, or seeds, a global generator."""
    before = states()
    yield
    names = ("torch", "numpy", "random")
    changed = [n for n, a, b in zip(names, before, states(), strict=True) if a != b]
    assert not changed, f"global random state changed: {', '.join(changed)}"


def needed(function) -> list[str]:
    """Options that a configuration has to give."""
    options = inspect.signature(function).parameters.values()
    return [p.name for p in options if p.kind is p.KEYWORD_ONLY and p.default is p.empty]


def takes(function, name: str) -> bool:
    return name in inspect.signature(function).parameters


def check_drawing(draw: Callable[[], Figure]) -> Figure:
    """The same figure twice, pixel by pixel; pyplot, generators and Matplotlib's settings stay.

    Given back is one of them, laid out. Pixels are compared before: panels that Matplotlib places
    are where it places them, and that is most of the time that drawing takes.
    """
    kept, settings = states(), printed.settings()
    figures = [draw(), draw()]
    assert printed.settings() == settings
    assert all(isinstance(figure, Figure) and figure.axes for figure in figures)
    canvases = [FigureCanvasAgg(figure) for figure in figures]
    engine = figures[0].get_layout_engine()
    for figure, canvas in zip(figures, canvases, strict=True):
        figure.set_layout_engine("none")
        canvas.draw()
    one, other = (bytes(canvas.buffer_rgba()) for canvas in canvases)
    assert one == other
    if engine is not None:
        engine.execute(figures[0])
    printed.check(figures[0])
    assert states() == kept
    assert not pyplot.get_fignums()
    return figures[0]
