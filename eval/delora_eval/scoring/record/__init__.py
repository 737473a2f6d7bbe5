"""What a score leaves behind: lines, answers, costs, a summary."""
