"""Who does it: one worker or many, on one machine or a cluster, and what they choose between the phases."""
