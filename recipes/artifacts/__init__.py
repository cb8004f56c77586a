"""From a source and a target to a verified artifact."""
