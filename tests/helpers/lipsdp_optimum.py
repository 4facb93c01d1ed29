"""LipSDP as it is published: Fazlyab et al. 2019, theorem 2, by cvxpy."""

import cvxpy as cp
import numpy as np
import torch


def problem(
    weights: list[torch.Tensor], slopes: tuple[float, float] = (0.0, 1.0)
) -> tuple[cp.Problem, cp.Variable]:
    """min L^2 over T, with the paper's matrices A and B, to be solved; and the variable L^2."""
    arrays = [w.double().numpy() for w in weights]
    sizes = [arrays[0].shape[1], *(w.shape[0] for w in arrays[:-1])]
    inputs, units = sizes[0], sum(sizes[1:])
    a = np.zeros((units, inputs + units))
    row = column = 0
    for w in arrays[:-1]:
        a[row : row + w.shape[0], column : column + w.shape[1]] = w
        row, column = row + w.shape[0], column + w.shape[1]
    b = np.hstack([np.zeros((units, inputs)), np.eye(units)])
    last = np.hstack([np.zeros((arrays[-1].shape[0], column)), arrays[-1]])
    first = np.hstack([np.eye(inputs), np.zeros((inputs, units))])
    multipliers, square = cp.Variable(units, nonneg=True), cp.Variable()
    t, (low, high) = cp.diag(multipliers), slopes
    cross = a.T @ t @ b
    m = (low + high) * (cross + cross.T) - 2 * b.T @ t @ b
    if low * high:
        m = m - 2 * low * high * a.T @ t @ a
    m = m - square * first.T @ first + last.T @ last
    return cp.Problem(cp.Minimize(square), [(m + m.T) / 2 << 0]), square
