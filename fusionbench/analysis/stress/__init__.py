"""What is left of a finished run's result when the patient's metadata are not there, or wrong.

Cells are withheld in the raw metadata of the test rows, and encoded by the run's own encoder; the
network is the run's own. Nothing is trained.

    stress_test.stress(store, block, row, execution) -> StressReport    of runs with saved weights
    stress_text.FORMATS[".csv"](report)                                 a file of it, as bytes
"""
