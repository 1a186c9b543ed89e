"""Published rows beside ours: where they stand, and whether a difference means anything.

A difference is computed only where the protocol has the very name of ours, the number of samples
is the same and our data are complete; everywhere else the row says what stands in the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusionbench.leaderboard.block import Block, Row
from fusionbench.leaderboard.published import Change, PublishedRow
from fusionbench.plugin.registry import key_of


@dataclass(frozen=True)
class Compared:
    """A published row, and either its differences to ours or the reason why there are none."""

    row: PublishedRow
    delta: dict[str, float]  # ours minus published, by metric, in the metric's own unit
    against: str  # key of our row; "" where there is none
    reason: str  # "" where there is a difference


@dataclass(frozen=True)
class PublishedBlock:
    """What papers report on a dataset. In the order of their file: such rows are not ranked."""

    dataset: str
    below: int  # position of the block of ours that it stands below
    subset: bool  # all that we have of this dataset is a part of its photographs
    rows: tuple[Compared, ...]
    changes: tuple[Change, ...]


def beside(
    blocks: Sequence[Block],
    published: Sequence[PublishedRow],
    changes: Sequence[Change] = (),
    *,
    show: bool | None = None,
) -> list[PublishedBlock]:
    """One block for each dataset of ours that papers report on.

    `show`: True for every such dataset, False for none. By default only where the whole dataset
    was evaluated: beside a part of its photographs the papers' numbers would be misread.
    """
    found = []
    for dataset in dict.fromkeys(block.dataset for block in blocks):
        places = [i for i, block in enumerate(blocks) if block.dataset == dataset]
        whole = [i for i in places if blocks[i].complete_data]
        rows = [row for row in published if row.dataset == dataset]
        by_image = all(blocks[i].level == "image" for i in places)
        wanted = bool(whole) and by_image if show is None else show
        if rows and wanted:
            ours = [blocks[i] for i in places]
            found.append(
                PublishedBlock(
                    dataset=dataset,
                    below=max(whole or places),
                    subset=not whole,
                    rows=tuple(compare(row, ours) for row in rows),
                    changes=tuple(c for c in changes if c.dataset == dataset),
                )
            )
    return found


def compare(row: PublishedRow, blocks: Sequence[Block]) -> Compared:
    """A published row against the blocks of its dataset."""
    whole = [block for block in blocks if block.complete_data]
    candidates = whole or list(blocks)
    same_protocol = [block for block in candidates if block.protocol == row.protocol]
    counts = {block.n_rows_used for block in same_protocol or candidates}
    reasons = []
    if any(block.level != "image" for block in candidates):
        reasons.append("ours is by lesion")
    if not whole:
        reasons.append("ours is a subset of the photographs")
    if not same_protocol:
        names = dict.fromkeys(block.protocol for block in candidates)
        reasons.append(f"other protocol than {' and '.join(names)}")
    if row.samples is None:
        reasons.append("samples unknown")
    elif row.samples not in counts:
        ours = " and ".join(f"{n:,}" for n in sorted(counts))
        reasons.append(f"{row.samples:,} samples, ours {ours}")
    if reasons:
        return Compared(row, {}, "", "; ".join(reasons))
    rivals = [
        mine
        for block in same_protocol
        if block.n_rows_used == row.samples
        for mine in block.rows
        if _same_method(mine, row) and mine.ranked and not mine.optimistic
    ]
    if not rivals:
        return Compared(row, {}, "", "no complete row of ours with that method and backbone")
    # The block's order: the best by the metric that sorts it.
    stats = rivals[0].parts["test"].metrics
    delta = {
        name: stats[name].mean - value.value for name, value in row.values.items() if name in stats
    }
    if not delta:
        return Compared(row, {}, "", "no metric in common with our row")
    return Compared(row, delta, rivals[0].key, "")


def _same_method(ours: Row, theirs: PublishedRow) -> bool:
    return (
        key_of(ours.fusion) == key_of(theirs.method) and (ours.backbone or "-") == theirs.backbone
    )
