"""What a program of the user's gets from this package without a word: config groups, and defaults below its own config.

`groups` is the first file to read; `base` puts `conf/config.yaml` below the main config.
"""
