"""The l_inf SDP bound of one logit of a deep network: GeoLIP's dual, by an interior-point method.

Wang, Prakriya & Jha, arXiv 2203.01212, sec. 5. z_0 is a difference of inputs with |z_0|_inf <= 1,
z_i the difference of the outputs of hidden layer i, and e the weights of the logit. Every unit k,
with slopes in [a_k, b_k] and incoming weights w_k, gives (z_k - a_k w_k z)(z_k - b_k w_k z) <= 0.
So for s > 0 (one per input) and l > 0 (one per unit), with

    M = diag(s) + sum_k l_k sym((e_k - a_k w_k)(e_k - b_k w_k)^T)  positive definite,

z^T M z <= sum s, hence e^T z <= sqrt(sum s * e^T M^-1 e). For ReLU (a = 0, b = 1) eliminating one
layer after the other is the recursion X_0 = diag(s), X_i = L_i - L_i W_i X_{i-1}^-1 W_i^T L_i / 4
with e^T M^-1 e = e^T X_L^-1 e.

As an SDP: minimise (sum s + c) / 2 such that S = [[M, -e], [-e^T, c]] >= 0, its dual being over
X >= 0 of the same size. A primal-dual method (HKM direction, predictor and corrector; Helmberg,
Rendl, Vanderbei & Wolkowicz 1996) from strictly feasible points on both sides: about a dozen
steps of some thirty products of matrices of size N = inputs + units + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import certified_max_eigenvalue
from lipdescent.arithmetic.ulps import TINY, gamma, round_up

_MAX_STEPS = 60


@dataclass(frozen=True)
class Network:
    """One model without its last layer, and without dead units.

    Attributes
    ----------
    weights : float64 (width_i, width_{i-1}) each.
    low, high : float64 (units,), slopes a and b of all hidden units, layer after layer, at most 4
        in size.
    """

    weights: list[Tensor]
    low: Tensor
    high: Tensor

    def reach(self) -> list[Tensor]:
        """|z_k| <= reach_k for |z_0|_inf <= 1, rounded up: one (width_i,) per layer."""
        sizes, unit = [torch.ones_like(self.weights[0][0])], 0
        for w in self.weights:
            steep = torch.maximum(self.low.abs(), self.high.abs())[unit : unit + len(w)]
            size = steep * (w.abs() @ sizes[-1]) + 4 * w.shape[1] * TINY
            sizes.append(round_up(size, w.shape[1] + 4))
            unit += len(w)
        return sizes


def deep_sdp(
    network: Network, logit: Tensor, *, tolerance: float, enough: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Certified upper bound for one logit, and the dual value reached.

    Parameters
    ----------
    logit : float64 (width of the last hidden layer,).
    tolerance : relative gap at which to stop.
    enough : stop as soon as the bound is at most this.

    Returns
    -------
    upper, value : float64, no axes. ``upper`` includes rounding; ``value`` does not. Infinite
    where rounding leaves no start.
    """
    if not logit.any():
        return logit.new_zeros(()), logit.new_zeros(())
    problem = Problem.of(network, logit)
    try:
        theta, x, slack = problem.dual_start(network), *problem.primal_start(network)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # torch's types do not have it
        # Weights of very different sizes.
        return logit.new_tensor(torch.inf), logit.new_zeros(())
    upper, value, best = torch.inf, 0.0, theta
    for _ in range(_MAX_STEPS):
        bound = float((theta[: problem.inputs].sum() * theta[-1]).sqrt())
        if bound < upper:
            upper, best = bound, theta
        value = max(value, float(x[-1] @ problem.output))
        if upper <= max(enough, value * (1 + tolerance)):
            break
        step = _step(problem, theta, x, slack)
        if step is None:
            break
        theta, x, slack = step
    return certify(network, problem, best), logit.new_tensor(value)


@dataclass(frozen=True)
class Problem:
    """S(theta) = sum_k theta_k A_k - C, theta = (s, l, c), A_k = sym((e_k - a w_k)(e_k - b w_k)^T).

    Attributes
    ----------
    rows : (N, N) the w_k, zero for inputs and for c. low, high : (N,) a and b, zero there too.
    output : (N,) e, 0 at c. inputs : number of inputs. widths : of the hidden layers.
    """

    rows: Tensor
    low: Tensor
    high: Tensor
    output: Tensor
    inputs: int
    widths: tuple[int, ...]

    @classmethod
    def of(cls, network: Network, logit: Tensor) -> Problem:
        inputs = network.weights[0].shape[1]
        size = inputs + sum(len(w) for w in network.weights) + 1
        rows, low, high, output = (logit.new_zeros(size) for _ in range(4))
        rows = logit.new_zeros(size, size)
        row, column = inputs, 0
        for w in network.weights:
            rows[row : row + len(w), column : column + w.shape[1]] = w
            row, column = row + len(w), column + w.shape[1]
        low[inputs:-1], high[inputs:-1] = network.low, network.high
        output[-1 - len(logit) : -1] = logit
        return cls(rows, low, high, output, inputs, tuple(len(w) for w in network.weights))

    def row_product(self, z: Tensor) -> Tensor:
        """rows @ z, layer by layer: the other blocks of rows are zero."""
        out, row, column, before = torch.zeros_like(z), self.inputs, 0, self.inputs
        for width in self.widths:
            block = self.rows[row : row + width, column : column + before]
            out[row : row + width] = block @ z[column : column + before]
            row, column, before = row + width, column + before, width
        return out

    def combine(self, theta: Tensor) -> Tensor:
        """sum_k theta_k A_k."""
        cross = (theta * (self.low + self.high) / 2)[:, None] * self.rows
        m = theta.diag() - (cross + cross.mT)
        product = theta * self.low * self.high
        if product.any():
            square = self.rows.mT @ (product[:, None] * self.rows)
            m = m + (square + square.mT) / 2
        return m

    def matrix(self, theta: Tensor) -> Tensor:
        """S."""
        s = self.combine(theta)
        s[-1] -= self.output
        s[:, -1] -= self.output
        return s

    def traces(self, z: Tensor) -> Tensor:
        """tr(A_k Z) for symmetric Z."""
        wz = self.row_product(z)
        square = (wz * self.rows).sum(1)
        return z.diagonal() - (self.low + self.high) * wz.diagonal() + self.low * self.high * square

    def forms(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f_k^T Z f_l, f_k^T Z g_l, g_k^T Z g_l with f_k = e_k - a_k w_k, g_k = e_k - b_k w_k."""
        wz = self.row_product(z)
        wzw = self.row_product(wz.mT).mT

        def form(left: Tensor, right: Tensor) -> Tensor:
            cross = left[:, None] * wz + right * wz.mT
            return z - cross + (left[:, None] * right) * wzw

        return form(self.low, self.low), form(self.low, self.high), form(self.high, self.high)

    def dual_start(self, network: Network) -> Tensor:
        """theta at which S is positive definite.

        With H = W X^-1 W^T, l_k = min(1 / (2 |a b|), 1 / (a + b)^2) / (h H_kk), h the largest
        eigenvalue of H scaled to ones on the diagonal, X + W^T L A B W is at least X / 2 and the
        next Schur complement at least L / 2.
        """
        x = torch.eye(self.inputs, dtype=self.low.dtype, device=self.low.device)
        theta, unit = [x.diagonal()], 0
        for w in network.weights:
            low, high = network.low[unit : unit + len(w)], network.high[unit : unit + len(w)]
            mean, product = (low + high) / 2, low * high
            room = torch.minimum(0.5 / product.abs(), 0.25 / mean.square()).clamp_max(1.0)
            h = w @ torch.linalg.solve(x, w.mT)
            root = h.diagonal().sqrt()
            largest = torch.linalg.eigvalsh(h / root / root[:, None])[-1]
            multiplier = 0.99 * room / (largest * h.diagonal())
            scaled = (multiplier * mean)[:, None] * w
            previous = x + w.mT @ ((multiplier * product)[:, None] * w)
            x = multiplier.diag() - scaled @ torch.linalg.solve(previous, scaled.mT)
            theta.append(multiplier)
            unit += len(w)
        start = torch.cat([*theta, x.new_ones(1)])
        last = self.output[-1 - len(x) : -1]
        cost = 2 * last @ torch.linalg.solve(x, last)
        scale = (cost / self.inputs).sqrt()  # sum s = c
        start = start * scale
        start[-1] = cost / scale
        return start

    def primal_start(self, network: Network) -> tuple[Tensor, Tensor]:
        """X > 0 with tr(A_k X) = 1, -slack_k, 1 for inputs, units and c; slack (units,) > 0.

        The covariance of z_0 standard normal, z_k = (a_k + b_k) / 2 w_k z + independent noise of
        variance r^2 Var(w_k z) / 2, r = (b_k - a_k) / 2, which makes slack_k the same number; and
        of a variable of variance 1 that is correlated with e^T z.
        """
        x = torch.zeros_like(self.rows)
        x[: self.inputs, : self.inputs].fill_diagonal_(1.0)
        start, stop, slack = 0, self.inputs, []
        for w in network.weights:
            units = slice(stop, stop + len(w))
            mean = ((self.low + self.high) / 2)[units]
            cross = (mean[:, None] * w) @ x[start:stop, :stop]
            x[units, :stop], x[:stop, units] = cross, cross.mT
            variance = ((w @ x[start:stop, start:stop]) * w).sum(1)
            noise = ((self.high - self.low)[units] / 2).square() * variance / 2
            inner = cross[:, start:stop] @ (mean[:, None] * w).mT
            x[units, units] = (inner + inner.mT) / 2 + noise.diag()
            slack.append(noise)
            start, stop = stop, stop + len(w)
        border = x @ self.output
        border = 0.9 * border / (border @ self.output).sqrt()
        x[-1], x[:, -1] = border, border
        x[-1, -1] = 1.0
        return x, torch.cat(slack)


def _step(
    problem: Problem, theta: Tensor, x: Tensor, slack: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """One predictor-corrector step, or None where rounding leaves no direction."""
    s = problem.matrix(theta)
    factor, info = torch.linalg.cholesky_ex(s)
    if info:
        return None
    y = torch.cholesky_inverse(factor)
    units = slice(problem.inputs, -1)
    l_units = theta[units]
    xff, xfg, xgg = problem.forms(x)
    yff, yfg, ygg = problem.forms(y)
    schur = (xfg.mT * yfg + xgg * yff + xff * ygg + xfg * yfg.mT) / 4
    schur.diagonal()[units] += slack / l_units
    # Scaled to ones on the diagonal: multipliers of very different sizes.
    root = schur.diagonal().rsqrt()
    factor, info = torch.linalg.cholesky_ex(root[:, None] * schur * root)
    if info:
        return None
    traces_y = problem.traces(y)
    traces_y[units] += 1 / l_units
    target = torch.ones_like(theta)
    target[units] = 0.0
    degree = len(theta) + len(l_units)

    def direction(mu: float, bend: Tensor, bend_slack: Tensor) -> tuple[Tensor, ...]:
        right = mu * traces_y - target - problem.traces(bend)
        right[units] -= bend_slack
        d_theta = root * torch.cholesky_solve((root * right)[:, None], factor)[:, 0]
        d_s = problem.combine(d_theta)
        xsy = x @ d_s @ y
        d_x = mu * y - x - bend - (xsy + xsy.mT) / 2
        d_slack = mu / l_units - slack - bend_slack - slack * d_theta[units] / l_units
        return d_theta, d_s, d_x, d_slack

    mu = float((x * s).sum() + (slack * l_units).sum()) / degree
    d_theta, d_s, d_x, d_slack = direction(0.0, torch.zeros_like(x), torch.zeros_like(slack))
    dual = _length(s, d_s, l_units, d_theta[units])
    primal = _length(x, d_x, slack, d_slack)
    after = float(((x + primal * d_x) * (s + dual * d_s)).sum()) + float(
        ((slack + primal * d_slack) * (l_units + dual * d_theta[units])).sum()
    )
    centre = min(1.0, max(0.0, after / degree / mu)) ** 2 * mu
    bend = d_x @ d_s @ y
    bend_slack = d_slack * d_theta[units] / l_units
    d_theta, d_s, d_x, d_slack = direction(centre, (bend + bend.mT) / 2, bend_slack)
    dual = _length(s, d_s, l_units, d_theta[units])
    primal = _length(x, d_x, slack, d_slack)
    if max(dual, primal) < 1e-6:
        return None
    return theta + dual * d_theta, x + primal * d_x, slack + primal * d_slack


def _length(matrix: Tensor, change: Tensor, vector: Tensor, vector_change: Tensor) -> float:
    """Almost the longest step, at most 1, that stays inside both cones."""
    ratio = float((-vector_change / vector).amax()) if len(vector) else 0.0
    length = min(1.0, 0.95 / ratio) if ratio > 0 else 1.0
    for _ in range(60):
        if not int(torch.linalg.cholesky_ex(matrix + length * change)[1]):
            # Verified one step ahead: what is taken lies inside, not on the border.
            return length if length == 1.0 else 0.9 * length
        length *= 0.85
    return 0.0


def certify(network: Network, problem: Problem, theta: Tensor) -> Tensor:
    """The bound at theta > 0 (N,), rounding included; infinite if it cannot be certified.

    The smallest eigenvalue of D S D, D = diag(S)^-1/2, is certified to be at least -delta. Then
    e^T z <= sqrt((sum s + delta sum_k S_kk reach_k^2) (c + delta c)).
    """
    inputs, size = problem.inputs, len(theta)
    s = problem.matrix(theta)
    d = s.diagonal().clamp_min(1e-300).rsqrt()
    weighted = d[:, None] * s * d
    # |fl(D S D) - D S D| <= gamma(N + 10) D |S| D elementwise, |S| with all signs made plus.
    plus = Problem(
        -problem.rows.abs(),
        problem.low.abs(),
        problem.high.abs(),
        -problem.output.abs(),
        inputs,
        (),
    )
    absolute = d[:, None] * plus.matrix(theta) * d
    error = round_up(gamma(size + 10) * absolute.sum(1).amax(), 3 * size + 20) + 1e-150
    if not (error.isfinite() and (theta > 0).all() and d.amax() < 1e75):
        return theta.new_tensor(torch.inf)  # beyond 1e75 underflow could exceed the 1e-150
    delta = certified_max_eigenvalue(-weighted, error=error).clamp_min(0.0)
    reach = round_up(torch.cat(network.reach()).square())
    excess = round_up(delta / d.square(), 4)
    left = round_up(theta[:inputs].sum(), inputs) + round_up((excess[:-1] * reach).sum(), size + 8)
    right = round_up(theta[-1] + excess[-1])
    return round_up(round_up(round_up(left) * right, 2).sqrt(), 2)
