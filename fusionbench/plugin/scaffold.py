"""Writing a new plugin: a working method of a few lines, and the test of its contract."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from fusionbench.errors import UsageError
from fusionbench.plugin import registry

MAX_LENGTH = 40
# Names that the written files use for something else.
TAKEN = {"Fusion", "Loss", "Control", "Spec", "Output", "Tensor", "Pipeline"}

SOURCE = '''

Source: unpublished. Once there is a paper, cite it here: authors, title, venue, year, URL.
"""'''

FUSION = '''"""{title}: metadata gates the pooled image features.{source}

import torch
from torch import Tensor, nn

from fusionbench.plugin.fusion import Fusion, Spec


class {cls}(Fusion):
    """gate = sigmoid(W2 relu(W1 meta)), times the image features: (B, D), (B, M) -> (B, D)."""

    def __init__(self, spec: Spec, *, hidden: int = 64) -> None:
        super().__init__(spec)
        self.gate = nn.Sequential(
            nn.Linear(spec.metadata, hidden), nn.ReLU(), nn.Linear(hidden, spec.width)
        )

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return image * torch.sigmoid(self.gate(meta))
'''

LOSS = '''"""{title}: cross-entropy in which hard samples count more.{source}

import torch
from torch import Tensor
from torch.nn import functional

from fusionbench.plugin.fusion import Spec
from fusionbench.plugin.loss import Loss, Output


class {cls}(Loss):
    """weight * mean of (1 - p)^gamma * -log p, p the probability of the true class."""

    def __init__(self, spec: Spec, *, weight: float = 1.0, gamma: float = 2.0) -> None:
        super().__init__(spec)
        self.weight, self.gamma = weight, gamma

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        nll = functional.cross_entropy(output.logits.float(), target, reduction="none")
        hard = (1 - torch.exp(-nll)) ** self.gamma
        loss = self.weight * (hard * nll).mean()
        return {{"{name}": loss}}
'''

CONTROL = '''"""{title}: nearest neighbours in the encoded metadata, without the photograph.{source}

from sklearn.neighbors import KNeighborsClassifier

from fusionbench.plugin.control import Control


class {cls}(Control):
    """The classes of the `neighbours` nearest training rows."""

    def __init__(self, *, neighbours: int = 15) -> None:
        self.neighbours = neighbours

    def estimator(self, seed: int) -> KNeighborsClassifier:
        return KNeighborsClassifier(self.neighbours)
'''

TEST = '''"""The contract of the {kind} in {file}.

Run it with `pytest`; `fusionbench check` shows the same checks one by one.
"""

from pathlib import Path

from fusionbench.contract import assert_ok, check_file


def test_{stem}_keeps_its_contract() -> None:
    assert_ok(check_file(Path(__file__).with_name("{file}")))
'''

TEMPLATES = {"Fusion": FUSION, "Loss": LOSS, "Control": CONTROL}  # base class -> plugin


def write_plugin(kind: str, name: str, folder: Path) -> tuple[Path, Path]:
    """Write `folder`/NAME.py and `folder`/test_NAME.py; returns the two paths.

    `kind` is fusion, loss or control; `name` is what the plugin is called on the command line
    ("my-gate"). Raises UsageError for a name that cannot be a file's and a class's, that is taken,
    or where a file is there already.
    """
    key = registry.key_of(name)
    stem = key.replace("-", "_")
    fits = re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", key) and len(key) <= MAX_LENGTH
    if not fits or keyword.iskeyword(stem):
        raise UsageError(
            f"{name!r} cannot be the name of a {kind}.",
            f"Take up to {MAX_LENGTH} letters, digits and single hyphens, a letter first: my-gate.",
        )
    if key.startswith("test-"):
        raise UsageError(f"{name!r} would be read as a test, not as a {kind}.", "Drop the test-.")
    base = kind.capitalize()
    plurals = {base: plural for plural, base in registry.KINDS.items()}
    entries = registry.discover(plurals[base], [folder] if folder.is_dir() else [])
    if key in entries:
        raise UsageError(
            f"There is a {kind} called {key!r} already: {entries[key].place}.", "Take another name."
        )

    plugin, test = folder / f"{stem}.py", folder / f"test_{stem}.py"
    for path in (plugin, test):
        if path.exists():
            raise UsageError(f"{path} exists already.", "Take another name or folder.")
    cls = "".join(part.capitalize() for part in key.split("-"))
    words = {
        "title": key.replace("-", " ").capitalize(),
        "cls": cls + "Method" if cls in TAKEN else cls,
        "name": key,
        "kind": kind,
        "stem": stem,
        "file": plugin.name,
        "source": SOURCE,
    }
    folder.mkdir(parents=True, exist_ok=True)
    plugin.write_text(TEMPLATES[base].format(**words), encoding="utf-8")
    test.write_text(TEST.format(**words), encoding="utf-8")
    return plugin, test
