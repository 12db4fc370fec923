"""What can be done with a trained model: load it, look inside, test it on noisy images."""
