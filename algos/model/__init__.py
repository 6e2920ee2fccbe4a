"""Loading, building and exporting models."""
