"""Is a difference more than chance? Intervals, tests and ranks over finished runs. No torch.

A run's value is keyed by (seed, fold): `Values = Mapping[tuple[int, int], float]`.

    resampled.resampled_t(a, b, ratio) -> ResampledT   corrected resampled t-test over folds: a - b
    resampled.mixed_t(a, b) -> MixedT                  mixed model over folds and seeds: a - b
    resampled.smallest_difference(n_folds, sd, ...)    what that test can show
    resampled.holm({name: p}) -> {name: adjusted p}    Holm's correction; NaN, undefined, stays so

    pooled.pool({seed: predictions of folds}) -> Pooled        out-of-fold rows, their patients
    bootstrap.paired(a, b, metrics) -> {metric: Paired}        patient-cluster bootstrap: a - b

    ranks.friedman(values, methods) -> Friedman        ranks over datasets, Nemenyi's groups
    ranks.diagram(friedman, path)                      critical-difference diagram, SVG, PDF or PNG
    variance.spread(values) -> VarianceParts           fold and seed parts of the variance

`ratio` is n_test / n_train, mean over folds; of two rows the larger one.

What the two tests of a difference ask is not the same. The bootstrap resamples patients and keeps
the trained models: would these models differ on other patients? The corrected t-test compares over
folds, in each of which the models were trained again: would the methods differ, trained once more?
The second is the question of a comparison of methods, and the one that decides here. The mixed
model asks it too and is less conservative; docs/tests.md compares their level and power.
"""
