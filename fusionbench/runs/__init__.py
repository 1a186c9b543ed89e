"""A table of runs -> those it lacks, one after the other, several at a time, or many on Ray.

    found = plan(table, execution)                      what there is to do, and what is done
    outcome = carry_out(found, execution, progress)     does it
    table = grid(fusions, backbones, losses, ...)       a table from lists, instead of a file
    forecast(found.todo(), store)                       time and disk, from earlier records

Row by row, all folds of each, so that they share what was prepared for the first: models are built
and compiled once per row. A run that fails is recorded and does not stop the others. Importing this
loads neither PyTorch nor Ray.
"""

from __future__ import annotations

from fusionbench.runs.carry_out import carry_out
from fusionbench.runs.forecast import Forecast, forecast
from fusionbench.runs.grid import grid
from fusionbench.runs.ledger import SweepOutcome
from fusionbench.runs.plan import Failed, Job, Plan, plan, plan_of
from fusionbench.runs.resources import Resources

__all__ = [
    "Failed",
    "Forecast",
    "Job",
    "Plan",
    "Resources",
    "SweepOutcome",
    "carry_out",
    "forecast",
    "grid",
    "plan",
    "plan_of",
]
