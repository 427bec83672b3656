"""What a run leaves, taken away: as a PEFT folder or an ordinary model folder, and used from there."""
