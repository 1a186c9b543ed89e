"""Records -> the rows that a table declares: its order, its labels, and what is still missing.

A record belongs to a row when every setting that the row states or leaves to a default is the
record's. Neither the data nor a plugin is loaded for that: plugin defaults are read as source
text, and a record made with an older source counts, its row being marked stale as everywhere.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusionbench.config.recipe import own_params
from fusionbench.config.run_config import RunConfig, literal_params, split_params
from fusionbench.data.card import DatasetCard
from fusionbench.data.locate import open_card
from fusionbench.leaderboard.block import ABSENT, Block, LevelName, PartStats, Row
from fusionbench.leaderboard.rows import Sources, blocks, has_level
from fusionbench.plugin import registry
from fusionbench.plugin.registry import key_of
from fusionbench.records import Record
from fusionbench.tables import OF_CONTROLS, Declared, Table, fold_count, protocol_of

# Of a RunConfig, what an identity does not hold among its settings, or holds resolved.
NO_SETTING = {
    "fusion", "backbone", "loss", "params", "dataset", "protocol", "seed", "weights",
    "allow_missing_images", "view", "columns",
}  # fmt: skip


def declared_blocks(
    table: Table,
    declared: Sequence[Declared],
    records: Iterable[Record],
    *,
    note: str = "",
    plugins: Sequence[str | Path] = (),
    current_sources: Sources | None = None,
    sort: str = "bacc",
    level: LevelName = "image",
) -> list[Block]:
    """The table, once for each set of photographs that records of it were made on.

    `declared`: expand(table, ...) of the table that `table` is a variant of. Rows stand in the
    table's order under their labels; one without records is there too, with no numbers. `sort` is
    the metric of the gains; records without metrics at `level` do not count.
    """
    card = open_card(table.dataset, plugins=plugins)
    spec = protocol_of(table, card)
    mine: dict[str, tuple[int, Record]] = {}
    wanted = [(d, _Wanted(d.config, card, spec.name, plugins)) for d in declared]
    for record in records:
        if not has_level(record, level):
            continue
        if table.folds and record.identity["fold"] not in table.folds:
            continue
        for one, test in wanted:
            if test.matches(record):
                mine[record.run_id] = (one.row, record)
                break
    found = blocks(
        (r for _, r in mine.values()), current_sources=current_sources, sort=sort, level=level
    ) or [
        Block(
            dataset=card.name,
            data_fingerprint="-",
            protocol=spec.name,
            split_hash="-",
            complete_data=True,
            n_rows_dataset=card.expect.rows or 0,
            n_rows_used=card.expect.rows or 0,
            rows=(),
            level=level,
        )
    ]
    seeds = len({d.config.seed for d in declared})
    expected = fold_count(spec) * seeds
    result = []
    for block in found:
        rows = [
            replace(
                row,
                label=table.rows[mine[row.run_ids[0]][0]].label,
                runs_expected=row.runs_expected // len(row.seeds) * seeds,
            )
            for row in block.rows
        ]
        place = {row.key: mine[row.run_ids[0]][0] for row in rows}
        absent = {d.row: d for d in reversed(declared) if d.row not in place.values()}
        for i, one in absent.items():
            rows.append(_empty(one, expected))
            place[rows[-1].key] = i
        rows.sort(key=lambda row: place[row.key])
        result.append(replace(block, rows=tuple(rows), title=table.title, note=note))
    return result


class _Wanted:
    """A row under one seed, as a test on records."""

    def __init__(
        self,
        config: RunConfig,
        card: DatasetCard,
        protocol: str,
        plugins: Sequence[str | Path],
    ) -> None:
        entry = registry.find_method(config.fusion, plugins)
        control = entry.kind == "controls"
        names = [] if control else [key_of(name) for name in config.loss.split("+")]
        self.exact: dict[str, Any] = {
            "dataset": card.name,
            "protocol": protocol,
            "seed": config.seed,
            "fusion": entry.name,
            "backbone": config.backbone,
            "loss": ABSENT if control else "+".join(names),
        }
        self.allow_missing = config.allow_missing_images
        self.weights = ABSENT if control else config.weights
        dumped = config.model_dump(mode="json", exclude=NO_SETTING)
        self.settings = dumped | {"recipe": key_of(config.recipe)}
        if control:
            of_controls = {*OF_CONTROLS} - {"recipe"}
            self.settings = {k: v for k, v in dumped.items() if k in of_controls}
        self.settings["view"] = config.view or card.views[0].name
        # In the card's order, as a record has them.
        self.settings["columns"] = [
            c.name
            for c in card.columns
            if (c.name in config.columns if config.columns else c.role == "input")
        ]
        owned = own_params(config, names)
        if control:  # nothing else reaches it
            owned = {key: value for key, value in owned.items() if key.startswith("fusion.")}
        raw = split_params(owned, names)
        self.fusion = (_defaults(entry), raw["fusion"])
        self.losses = {name: _defaults(registry.find("losses", name, plugins)) for name in names}
        self.loss_raw = {name: dict(raw[f"loss.{name}"]) for name in names}
        for key, text in raw["loss"].items():
            for name in names:
                if key in self.losses[name]:
                    self.loss_raw[name][key] = text
        if not control:
            for owner in ("optimizer", "schedule"):
                self.settings[f"{owner}_args"] = literal_params(raw[owner], owner)

    def matches(self, record: Record) -> bool:
        identity = record.identity
        if record.result is None or any(identity[k] != v for k, v in self.exact.items()):
            return False
        if not record.result.complete_data and not self.allow_missing:
            return False
        if not _same_weights(str(identity["weights"]), self.weights):
            return False
        for name, value in self.settings.items():
            field = RunConfig.model_fields.get(name)
            found = identity["settings"].get(name, field.default if field else None)
            if not _plainly_equal(found, value):
                return False
        losses = dict(identity["loss_params"])
        return _fits(identity["fusion_params"], *self.fusion) and all(
            _fits(losses.get(name, {}), defaults, self.loss_raw[name])
            for name, defaults in self.losses.items()
        )


def _fits(found: Mapping[str, Any], defaults: Mapping[str, Any], raw: Mapping[str, str]) -> bool:
    """Whether resolved parameters are these defaults overridden by that text."""
    if not raw.keys() <= found.keys():
        return False
    for name, value in found.items():
        if name in raw:
            if not _says(raw[name], value):
                return False
        elif name in defaults and not _plainly_equal(value, defaults[name]):
            return False
    return True


def _says(text: str, value: object) -> bool:
    """Whether `--set NAME=text` gave this value. The value's own type tells how text reads."""
    if isinstance(value, bool):
        return text.lower() in (("1", "on", "t", "true", "y", "yes") if value else
                                ("0", "off", "f", "false", "n", "no"))  # fmt: skip
    if isinstance(value, int | float):
        try:
            return float(text) == value
        except ValueError:
            return False
    if isinstance(value, list | tuple):
        parts = [part for part in text.split(",") if part]
        return len(parts) == len(value) and all(map(_says, parts, value))
    return str(value) == text


def _defaults(entry: registry.Entry) -> dict[str, Any]:
    """A plugin's defaults as far as they are literals."""
    found = {}
    for key, source in entry.parameters:
        try:
            found[key] = ast.literal_eval(source)
        except (ValueError, SyntaxError):
            continue
    return found


def _same_weights(recorded: str, wanted: str) -> bool:
    """A file counts by content; where it is not at hand, any file's run may be the one."""
    if wanted in (ABSENT, "none", "imagenet"):
        return recorded.partition(":")[0] == wanted
    path = Path(wanted)
    if not path.is_file():
        return recorded.startswith("file:")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return recorded.startswith("file:") and digest.startswith(recorded.removeprefix("file:"))


def _plainly_equal(a: object, b: object) -> bool:
    """Equal as JSON: a list is a tuple."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_plainly_equal, a, b))
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _empty(declared: Declared, expected: int) -> Row:
    """A row of which nothing has run."""
    config = declared.config
    return Row(
        key=f"row-{declared.row}",
        fusion=key_of(config.fusion),
        backbone=config.backbone,
        loss=config.loss,
        config={},
        differences={},
        seeds=(),
        runs_done=0,
        runs_expected=expected,
        parts={"test": PartStats(0, {})},
        parameters=None,
        images_per_s=None,
        flags=(),
        run_ids=(),
        label=declared.label,
        shuffled=config.shuffle_metadata,
    )
