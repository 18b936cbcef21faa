"""Configuration, the plan of releases, and preflight."""
