"""The report of a sweep. Read `report` first."""
