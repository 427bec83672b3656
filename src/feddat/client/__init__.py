"""What one client does: local training, evaluation, personal state."""
