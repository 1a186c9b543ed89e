"""Leaks, shortcuts and confounds of a dataset under a protocol. No torch.

verdict_of(table, protocol, columns) -> str     for a record: "clean", "leaky: patients 54 %", …
audit(table, protocol) -> Audit                 everything, as `fusionbench audit` shows it
sections(audit) -> [Section], to_markdown(audit)     the same for people
estimators(seed) -> {name: classifier}          metadata-only models
"""

from __future__ import annotations

from fusionbench.audit.examine import audit, verdict_of
from fusionbench.audit.findings import Audit
from fusionbench.audit.leak_value import estimators
from fusionbench.audit.markdown import to_markdown
from fusionbench.audit.sections import sections

__all__ = [
    "Audit",
    "audit",
    "estimators",
    "sections",
    "to_markdown",
    "verdict_of",
]
