"""What is done with a trained model beyond its row: loading, predicting, exporting."""
