"""The audit of a table under a protocol, and its verdict alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from fusionbench.audit.classes import find_classes
from fusionbench.audit.confounds import find_confounds
from fusionbench.audit.evidence import labels_of
from fusionbench.audit.findings import VERSION, Audit, DatasetFacts, ProtocolFacts
from fusionbench.audit.leak_value import find_leak_value
from fusionbench.audit.missingness import find_missingness
from fusionbench.audit.overlap import find_overlap, find_pairs, find_views_alike
from fusionbench.audit.proxies import find_proxies
from fusionbench.audit.together import find_together
from fusionbench.audit.verdict import verdict_text
from fusionbench.data.card import Column
from fusionbench.data.choices import input_columns
from fusionbench.data.photo_facts import VERSION as FACTS_VERSION
from fusionbench.data.photo_facts import PhotoFacts, photo_facts
from fusionbench.data.table import Table
from fusionbench.files import Memory, cache_folder
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Split

LIBRARIES = ("numpy", "pandas", "scikit-learn", "scipy", "pillow", "imagehash")


def audit(
    table: Table,
    protocol: Split,
    *,
    leak_value: bool = True,
    progress: Progress = SILENT,
) -> Audit:
    """Everything, for a table that may lack photographs (`load_table(photographs="optional")`).

    Missingness, the metadata-only models and the verdict are about the card's inputs; proxies are
    looked for among all columns of the card. `leak_value=False` leaves out the models, which take
    nearly all of the time. Raises DataError for a photograph that cannot be opened.
    """
    card = table.card
    columns = input_columns(card)
    findings = _findings(table, protocol, columns, progress)
    counts = np.bincount(table.labels, minlength=len(card.classes)).tolist()
    return Audit(
        dataset=DatasetFacts(
            name=card.name,
            title=card.title,
            fingerprint=table.fingerprint,
            audit_version=VERSION,
            rows=len(table),
            patients=len(np.unique(table.groups)) if card.group else None,
            lesions=len(np.unique(table.lesions)) if card.lesion else None,
            views=table.views,
            photographs=int(_pictured(table).sum()),
            classes=dict(zip(card.classes, counts, strict=True)),
            malignant=card.label.malignant,
            libraries={name: version(name) for name in LIBRARIES},
        ),
        protocol=ProtocolFacts(
            name=protocol.spec.name,
            kind=protocol.spec.kind,
            folds=len(protocol.folds),
            split_hash=protocol.split_hash,
            columns=tuple(c.name for c in columns),
        ),
        leak_value=find_leak_value(table, protocol, columns, progress) if leak_value else None,
        classes=find_classes(table, protocol),
        verdict=verdict_text(columns, **findings),
        **findings,
    )


def verdict_of(
    table: Table,
    protocol: Split,
    columns: Sequence[Column],
    *,
    progress: Progress = SILENT,
) -> str:
    """The verdict that a record of a run with these inputs carries: `clean`, or
    `leaky: patients 54 %; shortcut: missingness`. The rules are in fusionbench.audit.verdict.

    The same for the same data, split and inputs. The photographs are opened once, the first time;
    the rest takes a second or two for 2,298 rows. Remembered below the cache folder.
    """
    memory = Memory(cache_folder() / "verdicts" / "verdicts.json", str)
    key = _verdict_key(table, protocol, columns)
    if remembered := memory.read().get(key):
        return remembered
    text = verdict_text(columns, **_findings(table, protocol, columns, progress))
    memory.add({key: text}, progress)
    return text


def _findings(
    table: Table, protocol: Split, columns: Sequence[Column], progress: Progress
) -> dict[str, Any]:
    """What the verdict follows from, by its names in an Audit."""
    facts, labels = _facts(table, progress), labels_of(table)
    pairs = find_pairs(table, facts, progress)
    return {
        "overlap": find_overlap(table, protocol, pairs, _pictured(table), find_views_alike(facts)),
        "missingness": find_missingness(table, labels, columns),
        "proxies": find_proxies(table, labels),
        "together": find_together(table, labels, columns),
        "confounds": find_confounds(facts[table.views[0]], labels),
    }


def _pictured(table: Table) -> np.ndarray:
    """Rows with every view's photograph."""
    return np.logical_and.reduce([table.pictured(view) for view in table.views])


def _facts(table: Table, progress: Progress) -> dict[str, list[PhotoFacts | None]]:
    """Per view and row; None where the photograph is not here."""
    by_view: dict[str, list[PhotoFacts | None]] = {}
    for view in table.views:
        digests = table.digests[view]
        here = dict(zip(digests, table.images[view], strict=True))
        here.pop("", None)
        facts = photo_facts(here, name=table.card.name, progress=progress)
        by_view[view] = [facts.get(digest) for digest in digests]
    return by_view


def _verdict_key(table: Table, protocol: Split, columns: Sequence[Column]) -> str:
    """A hash of all that a verdict depends on."""
    meaning = [
        VERSION,
        FACTS_VERSION,
        table.fingerprint,
        protocol.split_hash,
        [f.index for f in protocol.folds],
        [(c.name, c.role) for c in columns],
        # Not part of the fingerprint.
        table.card.label.malignant,
        table.card.group,
        table.card.lesion,
        table.others.to_csv(),
        hashlib.sha256("\n".join(table.ids.tolist()).encode()).hexdigest(),
    ]
    return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()[:24]
