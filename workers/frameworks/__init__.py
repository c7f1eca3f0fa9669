"""Detection of frameworks, package managers and runtime versions."""
