"""The plots of a report: a table of trials in, a matplotlib figure out."""
