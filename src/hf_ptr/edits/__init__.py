"""Edits of a dataset that findings ask for: the edit of each check, the plan for a dataset, and its application."""
