"""Leaks, shortcuts and confounds of a dataset under a protocol. No torch.

examine.verdict_of(table, protocol, columns) -> str    for a record: "clean" and the like
examine.audit(table, protocol) -> Audit                everything that `fusionbench audit` shows
sections.sections(audit), to_markdown(audit, command)  the same for people
leak_value.estimators(seed) -> {name: classifier}      metadata-only models
"""
