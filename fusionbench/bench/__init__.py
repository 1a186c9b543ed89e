"""How fast a method trains, as a ratio to the bare backbone and to a textbook implementation.

    textbook    SGMC as a paper prints it, for comparison
    subjects    what is measured: the bare backbone and references (plain_loop), methods in the real
                trainer (real_trainer)
    measure     subjects in turn, round by round; where the time of a step goes
    session     a whole measurement
    folds       how soon a run's folds begin to train, and how fast the whole run is
    results     what was measured, as data
    report      results as a table, Markdown or JSON
    precision   --precision fastest

Its modules are imported by name: `results` and `report` need no PyTorch.
"""
