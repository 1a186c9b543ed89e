"""What is left of a finished run's result when the patient's metadata are not there, or wrong.

    stress(store, records, execution) -> Report   of one configuration's runs with saved weights
    reopen(record, execution) -> Experiment       what a record was made of, as it is here and now
    render(report, format)                        "json", "csv", "png" or "svg", as bytes

Cells are withheld in the raw metadata of the test rows, and encoded by the run's own encoder; the
network is the run's own. Nothing is trained.
"""

from __future__ import annotations

from fusionbench.analysis.stress.reopen import reopen
from fusionbench.analysis.stress.stress_report import Effect, Flip, Point, Reference, Report, Run
from fusionbench.analysis.stress.stress_test import stress
from fusionbench.analysis.stress.stress_text import FORMATS, render, to_data

__all__ = [
    "FORMATS",
    "Effect",
    "Flip",
    "Point",
    "Reference",
    "Report",
    "Run",
    "render",
    "reopen",
    "stress",
    "to_data",
]
