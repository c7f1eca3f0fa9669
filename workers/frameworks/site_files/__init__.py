"""Configuration files of repositories: Cloudify's own and those of other hosts."""
