"""A table of runs -> those it lacks, one after the other, several at a time, or many on Ray.

    todo = plan(table, execution)                       what there is to do, and what is done
    outcome = carry_out(todo, execution, progress)      does it
    outcome = run.run(config, execution, progress)      one row
    table = grid(fusions, backbones, losses, ...)       a table from lists, instead of a file
    forecast(plan.todo(), store)                        time and disk, from earlier records

Row by row, all folds of each, so that they share what was prepared for the first: models are built
and compiled once per row. A run that fails is recorded and does not stop the others. Importing this
loads neither PyTorch nor Ray.
"""

from __future__ import annotations

from fusionbench.runs.forecast import Forecast, forecast
from fusionbench.runs.grid import grid
from fusionbench.runs.plan import Failed, Job, Plan, plan
from fusionbench.runs.queue import Outcome
from fusionbench.runs.ray_connection import Resources
from fusionbench.runs.run import carry_out

__all__ = [
    "Failed",
    "Forecast",
    "Job",
    "Outcome",
    "Plan",
    "Resources",
    "carry_out",
    "forecast",
    "grid",
    "plan",
]
