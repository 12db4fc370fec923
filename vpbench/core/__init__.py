"""What everything else stands on: errors, names, hashes, files."""
