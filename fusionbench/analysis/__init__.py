"""Questions asked of finished runs: comparison, ranking, subgroups, stress."""
