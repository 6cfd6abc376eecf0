"""Draws the plots of a report: takes a table of trials, returns a matplotlib figure."""
