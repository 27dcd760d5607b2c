"""Live training: the dashboard and what it drives."""
