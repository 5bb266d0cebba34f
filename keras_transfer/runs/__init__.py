"""What a user starts: fine-tuning, automatic training and recipes."""
