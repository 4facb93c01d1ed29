"""The papers' statements, the studies that test each, and where each of the experiments stands.

Numbers are marked as the project's notes on the papers mark them: ``paper`` stated there, ``code``
read in the authors' code, ``measured`` by us beforehand with other code, ``derived`` by arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import reproduction_measures as measures
from reproduction_measures import LOWER, MEAN, PAIRS, TEST_LOSS, UPPER
from reproduction_words import Statement

CURVES = {"upper": UPPER, "lower": LOWER, "mean": MEAN}
LATE = 10_000  # the rate is constant from here on; where the paper's fits start is not stated


def evolution() -> Iterator[Statement]:
    """One network over 83,000 epochs (E1, E2)."""
    e1, e2 = ("ks_evolution",), ("ks_evolution_mse",)
    for name, factor in (("lower", 63), ("upper", 66)):
        yield Statement(f"e1_growth_{name}", "E1", f"width 256: the {CURVES[name]} grows by",
                        factor, "paper", e1, measures.growth(CURVES[name]))  # fmt: skip
    lower = {0: 0.369, 1000: 1.336, 2000: 3.762, 3000: 5.775, 4000: 7.142, 5000: 7.974,
             10000: 9.928, 50000: 19.39}  # fmt: skip
    for epoch, value in lower.items():
        yield Statement(f"e1_lower_{epoch}", "E1", f"width 256: {LOWER}, epoch {epoch:,}",
                        value, "paper", e1, measures.at(LOWER, epoch=epoch))  # fmt: skip
    pairs = {0: 0.165, 1000: 0.865, 2000: 2.752, 3000: 4.257, 4000: 5.120, 5000: 5.591,
             10000: 6.361, 50000: 8.840}  # fmt: skip
    for epoch, value in pairs.items():
        yield Statement(f"e1_pairs_{epoch}", "E1", f"width 256: {PAIRS}, epoch {epoch:,}",
                        value, "paper", e1, measures.at(PAIRS, epoch=epoch))  # fmt: skip
    for name, values in ((LOWER, lower), (PAIRS, pairs)):
        for epoch in (1000, 4000, 5000):
            yield Statement(f"e1_order_{name.split()[1]}_{epoch}", "E1", "points permuted by "
                            f"NumPy's seed 42: {name}, epoch {epoch:,}", values[epoch], "paper",
                            ("ks_evolution_order",),
                            measures.at(name, epoch=epoch, order_seed=42))  # fmt: skip
    slopes = {"upper": (0.59, 0.80), "lower": (0.46, 0.62), "mean": (0.44, 0.52)}
    for study, place, key, what in ((e1, 0, "E1", "cross-entropy"), (e2, 1, "E2", "squared error")):
        for name, each in slopes.items():
            taken = measures.exponent(CURVES[name], "epoch", start=LATE, starts_from=500)
            yield Statement(f"{key.lower()}_slope_{name}", key,
                            f"{what}, late epochs: exponent of the {CURVES[name]}", each[place],
                            "paper", study, taken)  # fmt: skip
        yield Statement(f"{key.lower()}_slope_constant", key,
                        f"{what}, late epochs: the constant itself grows as the layer product does",
                        slopes["upper"][place], "paper", study,
                        measures.exponent(UPPER, "epoch", start=LATE),
                        of_constant=True)  # fmt: skip

    for name, slope in (("upper", 0.80), ("lower", 0.32)):
        taken = measures.exponent(CURVES[name], "epoch", start=2500, end=8000)
        yield Statement(f"e1_middle_{name}", "E1", "cross-entropy, epochs 2,500 to 8,000: exponent "
                        f"of the {CURVES[name]}", slope, "measured", e1, taken)  # fmt: skip
    yield Statement("e1_middle_constant", "E1", "cross-entropy, epochs 2,500 to 8,000: the "
                    "constant itself grows as the layer product does", 0.80, "measured", e1,
                    measures.exponent(UPPER, "epoch", start=2500, end=8000),
                    of_constant=True)  # fmt: skip


def widths() -> Iterator[Statement]:
    """Sweeps over width (E9) and the abstract's two claims."""
    ce, mse = ("ks_fcn_ce", "ks_width_small"), ("ks_fcn_mse",)
    for name in (TEST_LOSS, LOWER, UPPER):
        yield Statement(f"e9_peak_{name.replace(' ', '_')}", "E9",
                        f"cross-entropy: the {name} peaks at width", 80, "paper", ce,
                        measures.peak(name))  # fmt: skip
        yield Statement(f"e9_longer_{name.replace(' ', '_')}", "E9",
                        f"cross-entropy, 600 epochs in place of 400: the {name} peaks at width", 80,
                        "paper", ("ks_softmax",), measures.peak(name))  # fmt: skip
    yield Statement("e9_peak_constant", "E9",
                    "cross-entropy: the constant itself, its geometric mean over seeds, peaks at "
                    "width", 80, "paper", ce, measures.constant_peak, of_constant=True)  # fmt: skip
    yield Statement("e9_peak_mse", "E9", "squared error: the test loss peaks at width", 800,
                    "paper", mse, measures.peak(TEST_LOSS))  # fmt: skip
    yield Statement("tandem", "abstract", "both bounds show double descent in tandem with the test "
                    "loss: all peak inside the grid, a width apart at most", None, "paper", ce,
                    measures.tandem((TEST_LOSS, LOWER, UPPER)))  # fmt: skip
    yield Statement("fidelity", "abstract", "the lower bound is close to the constant: it is this "
                    "share of the least upper bound", None, "paper", ce,
                    measures.fidelity)  # fmt: skip


def toy() -> Iterator[Statement]:
    """Three Gaussians in the plane, the authors' data and weights (E8)."""
    study, exact = ("ks_toy",), 1e-3
    yield Statement("e8_lower", "E8", LOWER, 135.815, "paper", study, measures.kinks, exact)
    grid = "largest Jacobian norm on a grid of 1000 x 1000 points"
    yield Statement("e8_grid", "E8", grid, 144.194, "paper", study,
                    measures.at("lower_jacobian@plane"), exact)  # fmt: skip
    yield Statement("e8_ascent", "E8", "ascent from the data finds the grid's value", 144.194,
                    "measured", study, measures.at("lower_ascent"),
                    exact)  # fmt: skip
    yield Statement("e8_upper", "E8", UPPER, 389.097, "paper", study, measures.at(UPPER), exact)
    yield Statement("e8_bracket", "E8", "the constant lies between", (135.815, 389.097), "paper",
                    study, measures.at(UPPER), of_constant=True)  # fmt: skip
    for split, value in (("train", 0.00113), ("test", 4.5888)):
        yield Statement(f"e8_{split}_loss", "E8", f"final {split} loss", value, "measured", study,
                        measures.metric(f"{split}_loss"), 5e-3)  # fmt: skip


def axes() -> Iterator[Statement]:
    """Depth, size of the training set, optimiser, label noise, sets of points."""
    depth, size = ("ks_depth", "ks_depth_small"), ("ks_train_size", "ks_train_size_small")
    for when, epoch, slopes in (("trained", -1, (3.33, 2.03, 1.19)),
                                ("at initialisation", 0, (0.30, -2.52, -2.84))):  # fmt: skip
        for (name, curve), slope in zip(CURVES.items(), slopes, strict=True):
            yield Statement(f"e27_{name}_{epoch % 2}", "E27",
                            f"{when}, width 64: exponent of the {curve} over hidden layers", slope,
                            "paper", depth,
                            measures.exponent(curve, "depth", epoch=epoch))  # fmt: skip
    for (name, curve), slope in zip(CURVES.items(), (0.53, 0.37, 0.36), strict=True):
        yield Statement(f"e28_{name}", "E28", f"exponent of the {curve} over training points",
                        slope, "paper", size, measures.exponent(curve, "num_train"))  # fmt: skip
    adam = measures.between_points(UPPER, "optimizer", "adam", "sgd", width=256)
    yield Statement(
        "e26",
        "E26",
        "width 256: the layer product with Adam, over that with SGD",
        None,
        "",
        ("ks_optimizers", "ks_optimizers_small"),
        adam,
    )
    yield Statement("e26_constant", "E26", "width 256: the constant is larger with Adam, the ratio "
                    "of the two is", (1.0, math.inf), "question",
                    ("ks_optimizers", "ks_optimizers_small"), adam, of_constant=True)  # fmt: skip
    for name in ("mlp", "conv1d"):
        for curve in (UPPER, LOWER):
            yield Statement(f"e16_{name}_{curve.split()[0]}", "E16",
                            f"{name}, all labels exchanged in pairs over none: the {curve}", None,
                            "", ("label_noise_small",),
                            measures.noise_effect(curve, name))  # fmt: skip
        yield Statement(f"e16_{name}_constant", "E16", f"{name}: the constant falls, its ratio is",
                        (0.0, 1.0), "question", ("label_noise_small",),
                        measures.noise_effect(UPPER, name), of_constant=True)  # fmt: skip
    clean = dict(zip((5, 7, 10, 20, 30, 40), (148.29, 633.68, 756.37, 172.15, 123.61, 106.35),
                     strict=True))  # fmt: skip
    for width, value in clean.items():
        yield Statement(f"t3_{width}", "T3", f"CNN of width {width} on CIFAR-10: {LOWER}", value,
                        "paper", ("ks_pgd_cnn_cifar10",),
                        measures.at(LOWER, width=width))  # fmt: skip
    yield Statement("t3_ratio", "T3", "largest Jacobian norm at PGD points over that at the data "
                    "(the paper: CNNs on CIFAR-10)", (0.941, 1.045), "paper",
                    ("ks_pgd_cnn_cifar10", "ks_point_sets", "ks_point_sets_small"),
                    measures.ratio("lower_jacobian@pgd", "lower_jacobian"), 0.0)  # fmt: skip


def regularisers() -> Iterator[Statement]:
    """Penalty, weight decay, dropout, clipping (E22, E24, E29, E30): questions of ours.

    The notes have no numbers of the paper's for them.
    """
    falls = {
        "E24": ("ks_penalty", "coefficient of the penalty on the largest Jacobian norm, 1 over 0",
                "penalty", 1.0, 0.0, {}),
        "E29": ("ks_weight_decay", "fully connected, SGD, weight decay .01 over 0",
                "weight_decay", 0.01, 0.0, {"optimizer": "sgd"}),
        "E29, ResNet20": ("ks_weight_decay_resnet_small", "weight decay .01 over 0",
                          "weight_decay", 0.01, 0.0, {}),
        "E30": ("ks_dropout", "fully connected, dropout .7 over 0", "dropout", 0.7, 0.0, {}),
        "E30, ResNet20": ("ks_dropout_resnet_small", "dropout .5 over 0", "dropout", 0.5, 0.0, {}),
        "E22": ("ks_clipping", "layers clipped at .5 over 16, temperature 1",
                "layer_clip", 0.5, 16.0, {"temperature": 1.0}),
    }  # fmt: skip
    short = {"E22": ("ks_clipping_small",), "E29": ("ks_weight_decay_small",)}
    for name, (study, what, axis, over, under, rest) in falls.items():
        studies = (study, *short.get(name, ()))
        key = name.lower().replace(", ", "_")
        for curve in (UPPER, LOWER):
            yield Statement(f"{key}_{curve.split()[0]}", name, f"{what}: the {curve}", None, "",
                            studies,
                            measures.between_points(curve, axis, over, under, **rest))  # fmt: skip
        yield Statement(f"{key}_constant", name, f"{what}: the constant falls, its ratio is",
                        (0.0, 1.0), "question", studies,
                        measures.between_points(UPPER, axis, over, under, **rest),
                        of_constant=True)  # fmt: skip
        yield Statement(f"{key}_test", name, f"the {axis.replace('_', ' ')} of the least mean test "
                        "loss is not the smallest: its interval or range over seeds is apart", None,
                        "question", studies,
                        measures.best_is_inside(axis, **rest))  # fmt: skip
    yield Statement("e22_caps", "E22", "the layer product of two clipped layers is at most the "
                    "cap's square, temperature 1", None, "derived",
                    ("ks_clipping", "ks_clipping_small"),
                    measures.below_caps("layer_clip", temperature=1.0))  # fmt: skip


def points() -> Iterator[Statement]:
    """Softmax (E25) and sets of points (E7, E18, E19): questions of ours."""
    for side, name in (("lower", LOWER), ("upper", UPPER)):
        yield Statement(f"e25_{side}", "E25", f"width 256: the {name} of the softmax, over "
                        "that of the logits", None, "", ("ks_softmax",),
                        measures.softmax(side))  # fmt: skip
    yield Statement("e25_constant", "E25", "width 256: the constant of the softmax is smaller, its "
                    "ratio is", (0.0, 1.0), "question", ("ks_softmax",), measures.softmax("upper"),
                    of_constant=True)  # fmt: skip
    sets = {
        "s_star": ("E18", "train, test and convex combinations of both"),
        "random_100": ("E7", "100 random points of each split"),
        "noise": ("E19", "points with Gaussian noise"),
        "gaussian": ("E19", "Gaussian points"),
    }
    for entry, (key, what) in sets.items():
        yield Statement(f"{key.lower()}_{entry}", key, f"largest Jacobian norm at {what}, over "
                        "that at the data, mean over widths", None, "",
                        ("ks_point_sets", "ks_point_sets_small"),
                        measures.ratio(f"lower_jacobian@{entry}", "lower_jacobian"))  # fmt: skip


def linearised() -> Iterator[Statement]:
    """The network against its linearisation at initialisation (E17): questions of ours."""
    study = ("ks_linearised_small",)
    for width in (16, 1024):
        yield Statement(f"e17_jacobian_{width}", "E17", f"width {width}: the mean Jacobian norm of "
                        "the linearised network, over the network's", None, "", study,
                        measures.linearised_share(width))  # fmt: skip
    yield Statement("e17_width", "E17", "the wider, the nearer is the linearised network to the "
                    "network, on training points, mean over seeds", None, "question", study,
                    measures.nearer_with_width)  # fmt: skip


def quantities() -> Iterator[Statement]:
    """Bias and variance, right and wrong predictions."""
    yield Statement("e21_certified", "E21", "squared error: the variance over seeds is below its "
                    "bound, with certified constants, at every width and noise", None, "paper",
                    ("ks_bias_variance_small",), measures.variance_bound)  # fmt: skip
    yield Statement("e31", "E31", "test points, clean labels, widest network: mean Jacobian norm "
                    "where it classifies wrongly, over rightly", None, "question",
                    ("ks_right_wrong_small",), measures.wrong_over_right("test"))  # fmt: skip


def others() -> Iterator[Statement]:
    """Nakkiran, Béthune, Anil, Wang, Smith."""
    yield Statement("nak_samples", "NAK", "more training points can raise the test loss", None,
                    "paper", ("sample_wise_small",), measures.more_data_hurts)  # fmt: skip
    yield Statement("nak_constant", "NAK", "the constant, its geometric mean over seeds, is "
                    "largest at a number of training points inside of the range", None, "question",
                    ("sample_wise_small",), measures.constant_peaks_over_sizes,
                    of_constant=True)  # fmt: skip
    yield Statement("mnist1d_peak", "MNIST1D", "two hidden layers, 15 % noise: the test loss peaks "
                    "at width", 61, "code", ("mnist1d_two_layers_small",),
                    measures.peak(TEST_LOSS))  # fmt: skip
    yield from _bethune()
    yield from _anil()
    order = "sampling <= SDP bound <= product in all rows, and enumeration between where feasible"
    for norm, first in (("linf", 3), ("l2", 2)):
        yield Statement(f"geo_order_{norm}", "GEO", f"{norm}: {order}", None, "paper", ("geolip",),
                        measures.holds(norm, lambda rows, first=first: all(
                            _increases(row[first:]) for row in rows)),
                        from_numbers=True)  # fmt: skip
    yield Statement("smi_kernel", "SMI", "20 features of 40 inputs: smallest singular value", 0.0,
                    "derived", ("distance_preservation",),
                    measures.cell("mnist1d", "20 features", 2), from_numbers=True)  # fmt: skip
    for column, name, value in ((2, "plain", 17.0), (4, "k = 0.5", 2.8)):
        yield Statement(f"smi_ratio_{column}", "SMI", f"80 features, {name}: largest over smallest "
                        "low-band singular value", value, "measured", ("distance_preservation",),
                        measures.cell("mnist1d", "low band, largest / smallest", column, place=1),
                        from_numbers=True)  # fmt: skip


def _increases(cells: list[str]) -> bool:
    numbers = [float(text) for text in cells if text]
    return numbers == sorted(numbers)


def _bethune() -> Iterator[Statement]:
    for tau, value in ((1, 0.3132617), (4, 0.0181499)):
        yield Statement(f"bet_two_points_{tau}", "BET", f"two points, tau {tau}: least "
                        "cross-entropy of 1-Lipschitz functions", value, "derived",
                        ("two_points",), measures.cell("found", f"loss, tau = {tau}", 2),
                        1e-5, from_numbers=True)  # fmt: skip
    yield Statement("bet_logarithm", "BET", "the unconstrained slope follows e^W + W = t + 1 (t to "
                    "1,000), within 1e-6", None, "derived", ("two_points",),
                    measures.holds("found", lambda rows: float(rows[0][2].split()[-1]) < 1e-6,
                                   row="W at t"), from_numbers=True)  # fmt: skip
    mixture = {1: (0.900, 1.70), 2: (0.900, 1.17), 4: (0.986, 0.80), 8: (0.993, 0.65),
               64: (0.994, 0.17), 256: (0.993, 0.08)}  # fmt: skip
    for tau, both in mixture.items():
        for name, column, value, tolerance in zip(("accuracy", "mean radius"), (2, 4), both,
                                                  (0.01, 0.1), strict=True):  # fmt: skip
            yield Statement(f"bet_mixture_{tau}_{column}", "BET", f"mixture, tau {tau}: {name}",
                            value, "measured", ("temperature",),
                            measures.cell("mixture", str(tau), column), tolerance,
                            from_numbers=True)  # fmt: skip
    yield Statement("bet_random_labels", "BET", "1-Lipschitz networks fit random labels too", None,
                    "paper", ("random_labels",),
                    measures.holds("found", lambda rows: "100 %" in rows[0][3],
                                   row="train accuracy"), from_numbers=True)  # fmt: skip


def _anil() -> Iterator[Statement]:
    tasks = {"absolute value": (0.577, 1.0, 1.0), "three cones": (0.486, 0.954, 0.994),
             "cone in R^128": (0.519, 0.845, 0.9996)}  # fmt: skip
    for task, expected in tasks.items():
        for place, value in enumerate(expected):
            name = ("ReLU", "MaxMin", "FullSort")[place]
            yield Statement(f"ani_{task}_{name}".replace(" ", "_"), "ANI",
                            f"{task}, {name}: estimate of the distance 1", value, "measured",
                            ("wasserstein",), measures.cell("found", task, 3, place=place),
                            from_numbers=True)  # fmt: skip
    yield Statement("ani_isometry", "ANI", "sorting networks keep all singular values within 1e-6 "
                    "of 1, to 12 hidden layers", None, "paper", ("isometry",),
                    measures.holds("found", lambda rows: all(
                        0 <= float(end.split("-", 1)[1]) <= 1e-6
                        for row in rows for end in row[2].split(", "))),
                    from_numbers=True)  # fmt: skip


PAPERS = {
    "evolution": list(evolution()),
    "widths": list(widths()),
    "toy": list(toy()),
    "axes": [*axes(), *quantities(), *linearised()],
    "regularisers": list(regularisers()),
    "points": list(points()),
    "others": list(others()),
}
STATEMENTS = [statement for each in PAPERS.values() for statement in each]

# Experiment -> what varies, its studies, what it lacks beside a run of those that no record is of.
COVERAGE: dict[str, tuple[str, tuple[str, ...], str]] = {
    "E1": ("epochs, cross-entropy", ("ks_evolution", "ks_evolution_order"), "width 65,536"),
    "E2": ("epochs, squared error", ("ks_evolution_mse",), "why it differs"),
    "E3 to E6": ("not named in our list", (), "our list names them by no sentence"),
    "E7": ("points of the lower bound", ("ks_point_sets", "ks_point_sets_small"),
            "the paper's protocol"),
    "E8": ("toy: three Gaussians", ("ks_toy",), ""),
    "E9": ("width, fully connected", ("ks_fcn_ce", "ks_fcn_mse", "ks_width_small"),
           "hours on one H100 for widths above 512"),
    "E10 to E15": ("not named in our list; the other sweeps over width are CNN, ViT and ImageNet",
                   ("ks_cnn_cifar10", "ks_cnn_cifar100", "ks_cnn_mnist", "ks_vit_cifar10"),
                   "days to weeks on one H100; for ImageNet: data and pretrained weights"),
    "E16": ("label noise 0 to 100 %", ("ks_label_noise", "label_noise_small"),
            "months on one H100 for CIFAR-10"),
    "E17": ("linearisation", ("ks_linearised_small",),
            "what the paper linearises: our notes do not say it"),
    "E18": ("convex combinations of points", ("ks_point_sets", "ks_point_sets_small"),
            "the paper's protocol"),
    "E19": ("Gaussian points", ("ks_point_sets", "ks_point_sets_small"),
            "the paper's protocol"),
    "E20": ("bound on the evolution", (), "the paper's formula, which our notes do not hold"),
    "E21": ("bias and variance over seeds", ("ks_bias_variance_small",), "the paper's protocol"),
    "E22": ("clipping of each layer's norm", ("ks_clipping", "ks_clipping_small"),
            "the paper's protocol"),
    "E23": ("histograms of Jacobian norms", ("ks_right_wrong_small",), "the paper's networks"),
    "E24": ("penalty on the lower bound", ("ks_penalty",), "the paper's protocol"),
    "E25": ("losses, softmax", ("ks_fcn_ce", "ks_fcn_mse", "ks_softmax"), "the paper's protocol"),
    "E26": ("optimiser", ("ks_optimizers", "ks_optimizers_small"), ""),
    "E27": ("depth", ("ks_depth", "ks_depth_small"), ""),
    "E28": ("size of the training set", ("ks_train_size", "ks_train_size_small"), ""),
    "E29": ("weight decay",
            ("ks_weight_decay", "ks_weight_decay_small", "ks_weight_decay_resnet_small"),
            "the paper's ResNet20 on CIFAR-10"),
    "E30": ("dropout", ("ks_dropout", "ks_dropout_resnet_small"),
            "the paper's ResNet20 on CIFAR-10"),
    "E31": ("right against wrong predictions", ("ks_right_wrong_small",), "the paper's networks"),
}  # fmt: skip
