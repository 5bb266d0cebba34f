"""What a model is made of, and what of it trains."""
