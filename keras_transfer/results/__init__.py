"""What functions give back."""
