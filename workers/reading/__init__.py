"""Reads what tenants wrote, in a child process with limits of its own."""
