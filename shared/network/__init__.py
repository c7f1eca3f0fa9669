"""Which addresses of the network the platform contacts for a tenant."""
