"""The contract of a fusion, on micro-backbones of different layouts.

Image sides are small and batches of four, so that a plugin is checked in seconds on one core.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from fusionbench.contract.checks import Check, check_settings, explain, require, run
from fusionbench.contract.fusion_case import MICRO_BACKBONES, Case
from fusionbench.contract.fusion_checks import FUSION_CHECKS, with_loss
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Fusion, FusionRefused
from fusionbench.plugin.loss import Loss
from fusionbench.progress import SILENT, Progress


def check_fusion(
    cls: type[Fusion],
    *,
    params: Mapping[str, Any] | None = None,
    backbones: Sequence[str] = MICRO_BACKBONES,
    losses: Mapping[str, type[Loss]] | None = None,
    image_size: int = 64,
    only: Collection[str] | None = None,
    thorough: bool = False,
    progress: Progress = SILENT,
) -> list[Check]:
    """Every check of a fusion on every backbone; never stops at the first failure.

    params     hyper-parameters other than the defaults
    losses     those it must work with, besides `ce`; None: every registered one
    only       names of FUSION_CHECKS to run; None: all of them
    thorough   compile on every backbone, not only on the first that accepts the fusion

    A backbone that the fusion refuses (FusionRefused) is skipped with its reason; one of them must
    be accepted.
    """
    settings = dict(params or {})
    classes = _registered_losses() if losses is None else dict(losses)
    ce = _registered_losses(("ce",))
    bodies = {n: body for n, body in FUSION_CHECKS.items() if only is None or n in only}
    checks = [run("settings", cls.__name__, partial(_settings, cls))]
    accepted = 0
    steps = len(backbones) * (len(bodies) + len(classes))
    with progress.task(f"checking {cls.__name__}", steps, "checks") as task:
        for name in backbones:
            case = Case(cls, name, image_size, settings)
            built = _builds(case)
            checks.append(built)
            if built.status != "pass":
                task.advance(len(bodies) + len(classes))
                continue
            accepted += 1
            runs = _runs(case)
            for check, body in bodies.items():
                if check == "compiled" and accepted > 1 and not thorough:
                    continue
                if runs or check == "shapes":
                    checks.append(run(check, name, partial(body, case)))
                else:
                    checks.append(Check(check, name, "skip", "its forward fails: see shapes"))
                task.advance()
            for loss, loss_cls in classes.items() if runs else ():
                pair = {**ce, loss: loss_cls}
                checks.append(run("loss", f"{name} + {loss}", partial(with_loss, case, pair)))
                task.advance()
    if backbones and all(c.status == "skip" for c in checks if c.name == "builds"):
        checks.append(
            Check("accepted", "all backbones", "fail", "it refuses every backbone it was tried on.")
        )
    return checks


def _builds(case: Case) -> Check:
    try:
        with torch.random.fork_rng(devices=[]):
            case.build()
    except FusionRefused as error:
        return Check("builds", case.backbone, "skip", str(error))
    except Exception as error:
        return Check("builds", case.backbone, "fail", explain(error))
    return Check("builds", case.backbone, "pass")


def _runs(case: Case) -> bool:
    """Whether a forward goes through at all: without that, no other check says anything."""
    return run("runs", case.backbone, partial(_forward, case)).status == "pass"


def _forward(case: Case) -> None:
    case.model()(*case.batch())


def _settings(cls: type[Fusion]) -> None:
    check_settings(cls)
    known = registry.discover("losses")
    for name in cls.default_loss.split("+"):
        require(registry.key_of(name) in known, f"default_loss names {name!r}, which is no loss.")


def _registered_losses(names: Sequence[str] | None = None) -> dict[str, type[Loss]]:
    return {
        name: registry.load(entry, Loss)
        for name, entry in registry.discover("losses").items()
        if not entry.broken and (names is None or name in names)
    }
