"""What relies on private parts of MLflow: `client` on its modules, `tables` and `relocation` on the tables of its
database, `environment` on what its environment variables do.

Each function says what it does, why, and which public way there is; `tricks.tricks` tells whether to take that. All
were tried with MLflow 3.17.2, and tests/tracking/test_private.py tells when one no longer fits.
"""
