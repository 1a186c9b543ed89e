"""What the metrics are called, how tables print them, and what they mean. No imports but dataclass:
listing them must cost nothing. fusionbench.metrics.compute computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ECE_BINS = 15


@dataclass(frozen=True)
class Metric:
    """What a number is called, how a table prints it, and which way is better."""

    name: str
    title: str
    definition: str
    better: Literal["high", "low"] = "high"
    # A fraction of one that tables print times a hundred.
    percent: bool = True

    @property
    def scale(self) -> int:
        """The factor between a value and its printed number."""
        return 100 if self.percent else 1

    @property
    def axis(self) -> str:
        """`BACC (%)`"""
        return f"{self.title} (%)" if self.percent else self.title

    def text(self, value: float, sign: str = "", digits: int = 1) -> str:
        """As it is printed: `64.7` for a BACC of 0.6471, `0.912` for an NLL. `sign`: "+" or "".
        `digits`: of a percentage; what is no percentage has two more."""
        digits += 0 if self.percent else 2
        return f"{round(self.scale * value, digits) + 0.0:{sign}.{digits}f}"  # + 0.0: never "-0.0"

    def difference(self, value: float) -> str:
        """`+3.1 points`, `-0.021`."""
        return self.text(value, "+") + (" points" if self.percent else "")


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("acc", "ACC", "share of photographs whose top class is right"),
        Metric("bacc", "BACC", "mean recall over the classes present in y"),
        Metric("precision_weighted", "Precision",
               "precision per class, weighted by the class counts of y; zero_division=0"),
        Metric("precision_macro", "Precision (macro)",
               "mean precision over classes present in y or predicted; zero_division=0"),
        Metric("f1_weighted", "F1",
               "F1 per class, weighted by the class counts of y; zero_division=0"),
        Metric("f1_macro", "F1 (macro)",
               "mean F1 over classes present in y or predicted; zero_division=0"),
        Metric("auc_ovr_macro", "AUC",
               "area under ROC, each class against the rest, mean over classes present in y"),
        Metric("auc_ovr_weighted", "AUC (weighted)",
               "area under ROC, each class against the rest, weighted by the class counts of y"),
        Metric("nll", "NLL", "mean of -ln p(true class), natural logarithm, p clipped at 2.2e-16",
               "low", percent=False),
        Metric("brier", "Brier",
               "mean over photographs of the squared error summed over classes (0 to 2)",
               "low", percent=False),
        Metric("ece", "ECE",
               f"expected calibration error of the top class: {ECE_BINS} equal-width bins "
               "((i-1)/15, i/15], sum of n_bin/n * |accuracy - mean confidence|", "low"),
    )
}  # fmt: skip

# After temperature scaling (metrics.calibration): the same numbers of softmax(logits / T).
SCALED: dict[str, Metric] = {
    f"{name}_scaled": Metric(
        f"{name}_scaled",
        f"{METRICS[name].title} (scaled)",
        f"{name} after temperature scaling, the temperature fitted on inner validation rows",
        "low",
        METRICS[name].percent,
    )
    for name in ("nll", "brier", "ece")
}

RECALL = "recall/"
SPECIFICITIES = (80, 90, 95)  # percent, of sens_at_spec80/<CLASS> and so on

# What comes before a class's name -> title and definition, with a hole for the class.
PER_CLASS: dict[str, tuple[str, str]] = {
    RECALL: ("Recall {}", "share of {} found; null without {} in y"),
    "precision/": (
        "Precision {}",
        "share of the photographs called {} that are {}; zero_division=0; null where {} is neither "
        "in y nor predicted",
    ),
    "f1/": (
        "F1 {}",
        "harmonic mean of precision and recall of {}; zero_division=0; null where {} is neither in "
        "y nor predicted",
    ),
    "auc/": ("AUC {}", "area under ROC of p({}), {} against the rest; null without {} in y"),
} | {
    f"sens_at_spec{s}/": (
        f"Sens@{s} {{}}",
        f"greatest sensitivity for {{}} at a threshold on p({{}}) with specificity >= {s} %, {{}} "
        "against the rest; no interpolation; null without {} in y",
    )
    for s in SPECIFICITIES
}


def describe(name: str) -> Metric:
    """The Metric of a name, scaled ones and `<family>/<CLASS>` included.

    Raises KeyError for an unknown name.
    """
    if metric := METRICS.get(name) or SCALED.get(name):
        return metric
    family, slash, label = name.partition("/")
    if not label:
        raise KeyError(name)
    title, definition = PER_CLASS[family + slash]
    return Metric(name, title.replace("{}", label), definition.replace("{}", label))


def is_known(name: str) -> bool:
    """Whether describe() knows the name; a class is not checked against any dataset."""
    family, slash, label = name.partition("/")
    return name in METRICS or name in SCALED or (bool(label) and family + slash in PER_CLASS)


def listed() -> tuple[Metric, ...]:
    """Every metric there is, per-class families once with `<CLASS>` for the class."""
    return (*METRICS.values(), *SCALED.values(), *(describe(f"{f}<CLASS>") for f in PER_CLASS))
