"""What a graph takes and gives: the form of its pictures, and the kind of its outputs."""
