"""All code that uses private parts of MLflow.

`client` uses its modules, `server` its web application, `tables`, `run_tables` and `relocation` the tables of its
database, `environment` its environment variables. Each function says what it does, why, and which public way exists;
`private_api_switch.tricks` says whether to use that.
All were tested with MLflow 3.17.2, and tests/tracking/test_private.py fails if one no longer fits.
"""
