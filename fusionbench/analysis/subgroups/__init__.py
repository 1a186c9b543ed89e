"""A finished run looked at group by group: Fitzpatrick type, sex, age, body region.

    by_subgroup.report(store, block, row, table) -> SubgroupReport    of one row of the leaderboard
    by_subgroup.attributes(pooled, table) -> tuple[Attribute, ...]    of out-of-fold predictions
    gaps.compare(pooled, values, order, name, column) -> Attribute    of one attribute

The groups are those that the dataset's card declares. This package imports no torch.

Groups differ in which diagnoses they have: nearly every mole of PAD-UFES-20 is a young patient's,
so accuracy by age compares moles with carcinomas. What is compared here is conditional on the
class: the recall of a class in one group against its recall in another, and the mean of such
recalls over classes that every compared group has. Only rows where the attribute was recorded
count; that nothing was recorded is a matter of the clinic, and of the label, not of the patient.

So that a tiny group is no finding:

* A recall is compared where the group has at least `min_n` photographs of the class. The mean
  compares as many groups as have enough of any one class, over every class that all of these have.
* Intervals count patients, not photographs: Wilson's score interval with Kish's effective size
  (sum m)^2 / sum m^2, m the photographs of each patient: as if a patient's photographs were all
  right or all wrong. For a difference Newcombe's hybrid of the two intervals (Statistics in
  Medicine 17 (1998) 873-890, https://pubmed.ncbi.nlm.nih.gov/9595617/), for a mean over classes the
  same step for a sum (Zou & Donner, Statistics in Medicine 27 (2008) 1693-1702,
  https://pubmed.ncbi.nlm.nih.gov/17592708/); both take the parts as independent.
* The lowest and the highest group are picked by looking, so the interval of a gap is widened for
  every pair that could have been picked (Bonferroni): 95 % for all pairs of groups together in the
  mean, and for all pairs in all classes together in the comparison by class. Where it reaches 0,
  the gap is not distinguishable from none. Every pair for which it does not is named, for the
  widest gap may be that of the smallest group. Attributes are not corrected for one another.
* With several seeds a recall is the mean over seeds; the patients are the same, so n is not larger.
"""
