"""Everything that uses MLflow. Read `store` first."""
