"""Sharing models and rows on the Hugging Face hub."""
