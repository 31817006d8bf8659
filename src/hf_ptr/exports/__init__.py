"""Weights and findings in the formats that trainers read: LeRobot, openpi, and tables of one's own."""
