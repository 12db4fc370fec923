"""From the store to tables and figures; imports no torch."""
