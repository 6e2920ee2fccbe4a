"""What a run's folder holds: writer beside reader."""
