"""Graphs: taken apart, checked, changed for where they run, kept."""
