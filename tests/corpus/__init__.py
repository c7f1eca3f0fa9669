"""Deploys other people's public repositories by name and address alone, and looks at the sites that come of it."""
