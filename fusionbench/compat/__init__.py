"""Models trained elsewhere, read into this package's modules and written back."""
