"""Export trained models, as PEFT folders or ordinary model folders, and use exported models."""
