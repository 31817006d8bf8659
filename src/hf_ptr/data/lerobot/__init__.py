"""LeRobotDatasets v2.1 and v3.0 on disk: reading, writing, validation and conversion."""
