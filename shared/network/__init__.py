"""The network addresses that the platform may contact for tenants."""
