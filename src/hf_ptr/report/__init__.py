"""What the scores say about the data: score files and reports."""
