"""What users see: the one place that writes to terminals, results of builds, signals."""
