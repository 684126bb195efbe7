"""What this run's teachers are shown, and who writes it."""
