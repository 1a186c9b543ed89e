"""Metrics: their names, their computation, by photograph and by lesion, and calibration."""
