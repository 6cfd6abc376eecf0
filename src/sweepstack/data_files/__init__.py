"""Files of a user's own data, without PyTorch: tables and folders of images. Read `table` and `images` first."""
