"""What a run is: its settings, its identity, its recipe. Nothing here imports torch."""
