"""Small linear programmes: the least cost, and the prices of what limits it."""

from __future__ import annotations

from dataclasses import dataclass

import highspy
import numpy as np
from scipy.sparse import csr_array

from scheduler.planner.instance import Floats

_OPTIONS: dict[str, bool | int | str] = {
    "log_to_console": False,
    "output_flag": False,
    "threads": 1,
    # Rows and columns have been brought to about the same size already.
    "simplex_scale_strategy": 0,
    # Looking for what can be left out takes longer than solving these programmes, and leaves worse prices.
    "presolve": "off",
}


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The best of a programme's points.

    Attributes:
        values: of the columns.
        prices: of the rows: how much the least cost falls with each limit; 0 or more.
        cost: the least.
    """

    values: Floats
    prices: Floats
    cost: float


def least(cost: Floats, matrix: csr_array, limits: Floats, most: Floats | None = None) -> Answer | None:
    """The least cost with rows at most their limits, and columns from 0 to `most`; None where nothing fits.

    Args:
        most: of each column; anything if none is given.
    """
    by_column = matrix.tocsc()
    programme = highspy.HighsLp()
    programme.num_row_, programme.num_col_ = matrix.shape
    programme.col_cost_ = cost
    programme.col_lower_ = np.zeros(len(cost))
    programme.col_upper_ = np.full(len(cost), np.inf) if most is None else most
    programme.row_lower_ = np.full(len(limits), -np.inf)
    programme.row_upper_ = limits
    programme.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    programme.a_matrix_.start_, programme.a_matrix_.index_ = by_column.indptr, by_column.indices
    programme.a_matrix_.value_ = by_column.data
    solver = highspy.Highs()
    for name, value in _OPTIONS.items():
        solver.setOptionValue(name, value)
    solver.passModel(programme)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    found = solver.getSolution()
    prices: Floats = np.maximum(-np.array(found.row_dual), 0.0)
    return Answer(np.array(found.col_value), prices, solver.getInfo().objective_function_value)
