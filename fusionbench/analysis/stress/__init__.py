"""What is left of a finished run's result when the patient's metadata are not there, or wrong.

Cells are withheld in the raw metadata of the test rows, and encoded by the run's own encoder; the
network is the run's own. Nothing is trained.

    stress_test.stress(store, text, execution) -> StressReport  of one row's runs with saved weights
    reopen.reopen(record, execution) -> Experiment              what a record was made of, as it is
                                                                here and now
    stress_text.render(report, format)                          "json", "csv", "png" or "svg"
"""
