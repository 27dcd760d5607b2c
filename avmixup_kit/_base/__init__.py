"""What every floor stands on. It imports nothing of the kit."""
