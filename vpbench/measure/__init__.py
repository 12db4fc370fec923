"""What a run costs: parameters, operations, time and memory."""
