"""The leader: owns the global model, its rounds and the exact aggregate."""
