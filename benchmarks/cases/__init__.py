"""One measured case a file."""
