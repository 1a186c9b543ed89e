"""Does the class show in what was not recorded, or in what was answered "unknown"?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusionbench.audit.evidence import (
    Estimate,
    Labels,
    against_rest,
    auc,
    balanced_accuracy,
    class_scores,
    enough,
    malignancy_score,
    patterns,
)
from fusionbench.audit.findings import Gap, Gaps, Missingness
from fusionbench.audit.measures import Estimates, Key, best_told, judge
from fusionbench.data.blocks import recorded_together
from fusionbench.data.card import Column
from fusionbench.data.table import Table

_MASK: Key = ()


def find_missingness(table: Table, labels: Labels, columns: Sequence[Column]) -> Missingness:
    """Gaps of those columns, alone, in blocks and all together."""
    names = [c.name for c in columns]
    frame = table.metadata[names]
    empty = frame.isna().to_numpy(dtype=bool)
    marked = frame.isin(list(table.card.unknown)).to_numpy(dtype=bool)
    blocks = recorded_together(frame)
    found, block_gaps = _gaps(labels, names, empty, blocks)
    unknown, _ = _gaps(labels, names, marked, ())
    return Missingness(
        chance=chance_of(labels),
        blocks=block_gaps,
        not_recorded=found,
        unknown=unknown,
        marks=table.card.unknown,
    )


def chance_of(labels: Labels) -> float:
    """Balanced accuracy of knowing nothing, over the classes that are looked at."""
    return 1 / max(len(enough(labels)), 1)


def _gaps(
    labels: Labels, names: Sequence[str], flags: np.ndarray, blocks: Sequence[tuple[str, ...]]
) -> tuple[Gaps, tuple[Gap, ...]]:
    where = {name: j for j, name in enumerate(names)}
    parts: dict[Key, np.ndarray] = {
        (name,): flags[:, j] for name, j in where.items() if flags[:, j].any()
    }
    # Of a block's columns some are empty in a few rows more: missing is where most of them are.
    parts |= {b: flags[:, [where[n] for n in b]].mean(axis=1) > 0.5 for b in blocks}
    codes = patterns(flags)
    estimates: Estimates = {}
    for key, flag in parts.items():
        score = flag.astype(np.float64)
        estimates[key, "auc"] = auc(score, labels)
        estimates[key, "bacc"] = _bacc(flag.astype(np.int64), labels)
        for name, own in against_rest(labels).items():
            estimates[key, f"auc/{name}"] = auc(score, own)
    several = codes.max(initial=0) > 0
    if several:
        if labels.malignant is not None:
            estimates[_MASK, "auc"] = auc(malignancy_score(codes, labels), labels, one_sided=True)
        estimates[_MASK, "bacc"] = _bacc(codes, labels)
        for name, own in against_rest(labels).items():
            score = malignancy_score(codes, own)
            estimates[_MASK, f"auc/{name}"] = auc(score, own, one_sided=True)
    measures = judge(estimates)

    def gap(key: Key) -> Gap:
        rows = parts[key]
        counts = np.bincount(labels.y[rows], minlength=len(labels.classes)).tolist()
        return Gap(
            columns=key,
            rows=int(rows.sum()),
            share=float(rows.mean()),
            malignant_rows=None if labels.malignant is None else int(labels.malignant[rows].sum()),
            by_class=dict(zip(labels.classes, counts, strict=True)),
            auc=measures[key, "auc"],
            bacc=measures[key, "bacc"],
            told=best_told(measures, key),
        )

    alone = tuple(gap((name,)) for name in names if (name,) in parts)
    found = Gaps(
        columns=alone,
        patterns=len(np.unique(codes)),
        mask_auc=measures.get((_MASK, "auc")),
        mask_bacc=measures.get((_MASK, "bacc")),
        mask_told=best_told(measures, _MASK),
    )
    return found, tuple(gap(b) for b in blocks)


def _bacc(codes: np.ndarray, labels: Labels) -> Estimate | None:
    return balanced_accuracy(class_scores(codes, labels), labels)
