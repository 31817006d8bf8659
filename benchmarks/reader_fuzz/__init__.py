"""Fuzz of the dataset reader: drawn LeRobot datasets, whose right content is known without the reader."""
