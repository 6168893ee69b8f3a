"""Tales gives an opening and asks for a short open-ended story."""
