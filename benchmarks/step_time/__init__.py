"""What a step costs, beside DDP and a naive design: `step_time`."""
