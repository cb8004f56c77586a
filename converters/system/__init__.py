"""What the machine gives: temporary files, memory, processors, rights, libraries, signals."""
