"""Tales: an opening in, a short open-ended story out."""
