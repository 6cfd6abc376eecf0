"""All that knows MLflow. Read `store` first."""
