"""What other terminals see of commands that train (`status`), and how they end them (`stop`, `follow`)."""
