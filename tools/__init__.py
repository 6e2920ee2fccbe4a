"""Scripts that write documentation pages from the code."""
