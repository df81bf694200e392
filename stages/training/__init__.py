"""Training: the loop with its checkpoints, the losses of distillation, schedules, processes."""
