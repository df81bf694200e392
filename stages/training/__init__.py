"""Training: the loop with its checkpoints, the distillation loss, schedules, processes."""
